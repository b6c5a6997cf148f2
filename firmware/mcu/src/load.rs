//! From a release in a slot to a runtime that is proven on its golden vectors.

use crate::engine::{Arena, PlaceEngine};
use crate::store::Held;
use crate::{MAX_FEATURES as F, MAX_OUTPUTS as C};
use edgeward::bundle::decode::{decode_policy, decode_profile};
use edgeward::bundle::golden::Golden;
use edgeward::bundle::{Bundle, SectionKind};
use edgeward::engine::Engine;
use edgeward::guard::self_test;
use edgeward::program::Kernels;
use edgeward::runtime::Runtime;
use edgeward::telemetry::{Reason, release_id};
use edgeward::trust::Digest32;

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

/// Makes a release ready, which [`check`] found sound, and runs its golden vectors. Takes the tensor's
/// memory only when it succeeds.
pub(crate) fn load<K: Kernels + Default>(
    held: Held,
    digest: &Digest32,
    arena: &'static Arena,
    memory: &mut Option<&'static mut [f32]>,
) -> Result<PlaceRuntime<K>, Reason> {
    let bundle = Bundle::open(held.bytes()).map_err(|_| Reason::Corrupt)?;
    let section = |kind| bundle.require(kind).map_err(|_| Reason::Unsupported);
    let profile =
        decode_profile::<F, C>(section(SectionKind::Profile)?).map_err(|_| Reason::Unsupported)?;
    let policy = decode_policy(section(SectionKind::Policy)?).map_err(|_| Reason::Corrupt)?;
    let golden = Golden::parse(section(SectionKind::Golden)?).map_err(|_| Reason::Corrupt)?;
    let mut engine = PlaceEngine::<K>::new(held, arena).ok_or(Reason::Unsupported)?;
    let tensor = memory.as_deref_mut().ok_or(Reason::Unsupported)?;
    let mut output = [0.0; C];
    if engine.input_len() > tensor.len() || engine.output_len() > output.len() {
        return Err(Reason::Unsupported);
    }
    let vectors = golden
        .iter()
        .map(|vector| (vector.input.iter(), vector.output.iter()));
    let tolerance = golden.tolerance();
    self_test(&mut engine, vectors, tolerance, tensor, &mut output)
        .map_err(|_| Reason::SelfTest)?;
    let needed = usize::from(profile.schema.window) * profile.features.len();
    let shaped = engine.input_len() == needed && engine.output_len() == profile.output.names.len();
    if !shaped {
        // `Runtime::new` would say no as well, and keep the memory.
        return Err(Reason::Unsupported);
    }
    let tensor = memory.take().ok_or(Reason::Unsupported)?;
    Runtime::new(engine, release_id(digest), profile, policy, tensor)
        .map_err(|_| Reason::Unsupported)
}
