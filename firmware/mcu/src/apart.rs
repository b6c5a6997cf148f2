//! A frame of its own for what is waited for.

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

/// A future that is polled in a function of its own. All that a task waits for is compiled into one otherwise,
/// whose frame has room for all of it at once, whatever the task is at.
pub(crate) struct Apart<'a, F>(pub Pin<&'a mut F>);

impl<F: Future> Future for Apart<'_, F> {
    type Output = F::Output;

    #[inline(never)]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        self.0.as_mut().poll(context)
    }
}
