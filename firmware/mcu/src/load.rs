//! From a release in a slot to a runtime that is proven on its golden vectors.

use crate::engine::{Arena, PlaceEngine, Seat};
use crate::store::Held;
use edgeward::bundle::decode::{decode_policy, decode_profile_into};
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
pub(crate) type PlaceRuntime<K, const F: usize, const C: usize> =
    Runtime<Seat<K>, &'static mut [f32], F, C>;

/// A slot's runtime: it stays where it is, whatever release it is of.
pub(crate) type Place<K, const F: usize, const C: usize> = &'static mut PlaceRuntime<K, F, C>;

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

    /// Runs the next golden vector on `tensor`, its slot's memory, for at most `C` outputs; false when there is
    /// none left.
    pub fn step<const C: usize>(&mut self, tensor: &mut [f32]) -> Result<bool, Reason> {
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

    /// The runtime of a release whose golden vectors hold. Takes its slot's place only when it succeeds; what
    /// was in it is gone anyway.
    #[inline(never)]
    pub fn finish<const F: usize, const C: usize>(
        self,
        place: &mut Option<Place<K, F, C>>,
    ) -> Result<Place<K, F, C>, Reason> {
        self.test.finish().map_err(|_| Reason::SelfTest)?;
        let runtime = place.as_deref_mut().ok_or(Reason::Unsupported)?;
        let (profile, policy) = runtime.settings_mut();
        decode_profile_into(profile, section(self.bundle, SectionKind::Profile)?)
            .map_err(|_| Reason::Unsupported)?;
        *policy = decode_policy(section(self.bundle, SectionKind::Policy)?)
            .map_err(|_| Reason::Corrupt)?;
        runtime
            .begin(Seat(Some(self.engine)), release_id(&self.digest))
            .map_err(|_| Reason::Unsupported)?;
        place.take().ok_or(Reason::Unsupported)
    }
}

/// A section of a bundle that must have it.
fn section(bundle: &'static [u8], kind: SectionKind) -> Result<&'static [u8], Reason> {
    let bundle = Bundle::open(bundle).map_err(|_| Reason::Corrupt)?;
    bundle.require(kind).map_err(|_| Reason::Unsupported)
}
