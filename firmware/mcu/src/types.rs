//! The types of a board's firmware, by what a model may have there.

use edgeward::telemetry::codec::{MAX_FRAME_BYTES, max_frame_bytes};
use edgeward_firmware::{MAX_FEATURES, MAX_OUTPUTS};

/// Names this crate's types by what a model may have on a board, and nothing else there has to: most features and
/// outputs, and elements of the input tensor. A release of more is refused as
/// [`Unsupported`](edgeward::telemetry::Reason::Unsupported).
///
/// For a module of the board's crate, in which it makes `Link`, `Inference<K>`, `Stock<K>`, `Memory` and `Space<S>`, and
/// three numbers: `FEATURES`, the `RECORD_BYTES` that [`Map::new`](crate::Map::new) asks for, and `BUFFER_BYTES`, which
/// only `Space<S>` needs. The figures given must have other names than these and `OUTPUTS` and `INPUTS`. Figures out of their bounds, which are 128 features, 32 outputs and a tensor of at least a sample, don't compile.
///
/// # Example
/// ```
/// mod model {
///     edgeward_mcu::types! { features: 20, outputs: 4, inputs: 200 }
/// }
///
/// static LINK: model::Link = model::Link::new();
/// assert_eq!(model::FEATURES, 20);
/// ```
#[macro_export]
macro_rules! types {
    (features: $features:expr, outputs: $outputs:expr, inputs: $inputs:expr $(,)?) => {
        /// Most features of a model.
        #[allow(dead_code, reason = "of interest to sensors of any number")]
        pub const FEATURES: usize = $features as usize;
        const OUTPUTS: usize = $outputs as usize;
        const INPUTS: usize = $inputs as usize;
        const _: () = $crate::check_figures(FEATURES, OUTPUTS, INPUTS);

        /// Bytes of the outbox's largest record.
        pub const RECORD_BYTES: usize = $crate::record_bytes(FEATURES, OUTPUTS);
        /// Bytes of the outbox's buffer.
        pub const BUFFER_BYTES: usize = $crate::buffer_bytes(FEATURES, OUTPUTS);
        /// The way between the two tasks.
        pub type Link = $crate::Link<FEATURES, OUTPUTS>;
        /// The state of the inference task.
        pub type Inference<K> = $crate::inference::Inference<K, FEATURES, OUTPUTS>;
        /// What releases live in.
        pub type Stock<K> = $crate::inference::Stock<K, FEATURES, OUTPUTS, INPUTS>;
        /// The application's working memory.
        pub type Memory = $crate::Memory<[u8; $crate::send_bytes(FEATURES, OUTPUTS)]>;
        /// Where the application lies.
        pub type Space<S> = $crate::Space<S, FEATURES, OUTPUTS, BUFFER_BYTES>;
    };
}

/// Fails, as it is compiled, where a board's figures are none.
#[doc(hidden)]
pub const fn check_figures(features: usize, outputs: usize, inputs: usize) {
    assert!(
        1 <= features && features <= MAX_FEATURES,
        "a board has room for models of 1 to 128 features: no release has more"
    );
    assert!(
        1 <= outputs && outputs <= MAX_OUTPUTS,
        "a board has room for models of 1 to 32 outputs: no release has more"
    );
    assert!(
        inputs >= features,
        "a model's input tensor has at least an element a feature: more inputs, or fewer features"
    );
    assert!(max_frame_bytes(features, outputs) <= MAX_FRAME_BYTES);
}
