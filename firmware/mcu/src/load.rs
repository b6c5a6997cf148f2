//! From a release in a slot to a runtime that is proven on its golden vectors.

use crate::engine::{Arena, PlaceEngine};
use crate::store::Held;
use crate::{MAX_FEATURES as F, MAX_OUTPUTS as C};
use edgeward::bundle::decode::{decode_policy, decode_profile};
use edgeward::bundle::golden::Golden;
use edgeward::bundle::{Bundle, SectionKind};
use edgeward::engine::Engine;
use edgeward::guard::SelfTest;
use edgeward::program::Kernels;
use edgeward::runtime::Runtime;
use edgeward::telemetry::{Reason, ReleaseId, release_id};
use edgeward::trust::Digest32;
use edgeward_firmware::control::Purpose;

/// A runtime as microcontrollers have it.
pub(crate) type PlaceRuntime<K> = Runtime<PlaceEngine<K>, &'static mut [f32], F, C>;

/// Whether what a slot holds is this release, with all its hashes. A pass over all of its bytes: not for
/// the inference task.
pub(crate) fn check(held: &Held, digest: &Digest32) -> Result<(), Reason> {
    let bundle = Bundle::open(held.bytes()).map_err(|_| Reason::Corrupt)?;
    if bundle.head().digest() != *digest {
        return Err(Reason::Corrupt);
    }
    bundle.verify_data().map_err(|_| Reason::Corrupt)
}

/// A release that [`check`] found sound, and whose golden vectors run: one at a time, because the release
/// that answers goes on meanwhile.
#[derive(Debug)]
pub(crate) struct Candidate<K> {
    digest: Digest32,
    /// In place, as long as the engine keeps them.
    bundle: &'static [u8],
    engine: PlaceEngine<K>,
    golden: Golden<'static>,
    test: SelfTest,
    /// What for.
    pub purpose: Purpose,
}

impl<K: Kernels + Default> Candidate<K> {
    /// A release before its first golden vector.
    pub fn new(
        held: Held,
        digest: &Digest32,
        purpose: Purpose,
        arena: &'static Arena,
    ) -> Result<Self, Reason> {
        let bundle = held.bytes();
        let golden = section(bundle, SectionKind::Golden)?;
        let golden = Golden::parse(golden).map_err(|_| Reason::Corrupt)?;
        let engine = PlaceEngine::new(held, arena).ok_or(Reason::Unsupported)?;
        Ok(Self {
            digest: *digest,
            bundle,
            engine,
            golden,
            test: SelfTest::new(golden.tolerance()),
            purpose,
        })
    }

    /// Which release it is.
    pub fn release(&self) -> ReleaseId {
        release_id(&self.digest)
    }

    /// Runs the next golden vector on `tensor`, its slot's memory; false when there is none left.
    pub fn step(&mut self, tensor: &mut [f32]) -> Result<bool, Reason> {
        let mut output = [0.0; C];
        if self.engine.input_len() > tensor.len() || self.engine.output_len() > output.len() {
            return Err(Reason::Unsupported);
        }
        let Some(vector) = self.golden.iter().nth(self.test.passed() as usize) else {
            return Ok(false);
        };
        let (given, expected) = (vector.input.iter(), vector.output.iter());
        self.test
            .vector(&mut self.engine, given, expected, tensor, &mut output)
            .map(|()| true)
            .map_err(|_| Reason::SelfTest)
    }

    /// The runtime of a release whose golden vectors hold. Takes the tensor's memory only when it
    /// succeeds.
    #[inline(never)]
    pub fn finish(
        self,
        memory: &mut Option<&'static mut [f32]>,
    ) -> Result<PlaceRuntime<K>, Reason> {
        self.test.finish().map_err(|_| Reason::SelfTest)?;
        let profile = decode_profile::<F, C>(section(self.bundle, SectionKind::Profile)?)
            .map_err(|_| Reason::Unsupported)?;
        let policy = decode_policy(section(self.bundle, SectionKind::Policy)?)
            .map_err(|_| Reason::Corrupt)?;
        let needed = usize::from(profile.schema.window) * profile.features.len();
        let shaped = self.engine.input_len() == needed
            && self.engine.output_len() == profile.output.names.len();
        if !shaped {
            // `Runtime::new` would say no as well, and keep the memory.
            return Err(Reason::Unsupported);
        }
        let tensor = memory.take().ok_or(Reason::Unsupported)?;
        Runtime::new(
            self.engine,
            release_id(&self.digest),
            profile,
            policy,
            tensor,
        )
        .map_err(|_| Reason::Unsupported)
    }
}

/// A section of a bundle that must have it.
fn section(bundle: &'static [u8], kind: SectionKind) -> Result<&'static [u8], Reason> {
    let bundle = Bundle::open(bundle).map_err(|_| Reason::Corrupt)?;
    bundle.require(kind).map_err(|_| Reason::Unsupported)
}
