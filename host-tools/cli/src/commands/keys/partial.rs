//! Roots on their way from hand to hand.

use super::{CountersignArgs, show};
use crate::commands::change::Changes;
use crate::commands::release;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::output::Table;
use edgeward::trust::Role;
use edgeward::trust::root::Root;
use edgeward_host::keys::{KeyError, KeyStore, hex, role_name};
use serde::Serialize;
use std::path::Path;

/// Begins a root that others are to sign as well, in which keys of `role` are others.
pub fn propose(
    store: &KeyStore,
    mut changes: Changes,
    context: &Context,
    (file, what): (&Path, String),
    (role, begin): (Role, impl FnOnce() -> anyhow::Result<Vec<u8>>),
) -> anyhow::Result<Exit> {
    store.signers_at_hand(Role::Root)?;
    release::check_target(file)?;
    let what = format!("{what}; signed by the root keys at hand, not in force yet");
    if let Some(bytes) = changes.make(what, begin)? {
        release::write(&mut changes, file, &bytes)?;
        context.out.say(format!(
            "{} holds the new root; whoever has another root key goes on with `edgeward keys countersign`",
            file.display()
        ));
        let next = store.countersigned(&bytes)?.next;
        tell_apart(store, &next, role, context)?;
    }
    show(store, &changes, context)
}

/// Warns where so many keys of a role that several people hold are in one folder that whoever has it needs
/// nobody else.
fn tell_apart(store: &KeyStore, next: &Root, role: Role, context: &Context) -> anyhow::Result<()> {
    // Those of the other roles lie beside `edgeward serve`, which signs with them all day long.
    if !matches!(role, Role::Root | Role::Release) {
        return Ok(());
    }
    let threshold = usize::from(next.role(role).threshold);
    let held: Vec<String> = store
        .list()?
        .into_iter()
        .filter(|key| key.held && next.role(role).keys.contains(&key.public))
        .map(|key| format!("{}-{}.p8", role_name(role), hex(&key.public.id().0)))
        .collect();
    if threshold > 1 && held.len() >= threshold {
        context.out.say(format!(
            "warning: {} of the {} {} keys, of which {threshold} must sign, are in {}: {}. Move each but your own to \
             the person who shall hold it, and leave no copy; or begin anew with keys that they make with \
             `edgeward keys make {}` (--public)",
            held.len(),
            next.role(role).keys.len(),
            role_name(role),
            store.folder().display(),
            held.join(", "),
            role_name(role),
        ));
    }
    Ok(())
}

/// What a root on its way changes. The field names are stable.
#[derive(Serialize)]
struct Countersigned {
    root_version: u32,
    added_signatures: usize,
    valid_signatures: Option<u8>,
    needed_signatures: Option<u8>,
    in_force: bool,
    differences: Vec<Difference>,
}

#[derive(Serialize)]
struct Difference {
    role: &'static str,
    key: String,
    change: &'static str,
}

/// Keys and thresholds in which two roots differ.
fn differences(old: &Root, new: &Root) -> Vec<Difference> {
    let mut found = Vec::new();
    for role in Role::ALL {
        let (before, after) = (old.role(role), new.role(role));
        let gone = before.keys.iter().filter(|key| !after.keys.contains(key));
        let come = after.keys.iter().filter(|key| !before.keys.contains(key));
        let changes = gone.map(|key| (key, "revoked"));
        for (key, change) in changes.chain(come.map(|key| (key, "new"))) {
            let key = hex(&key.id().0);
            found.push(Difference {
                role: role_name(role),
                key,
                change,
            });
        }
        if before.threshold != after.threshold {
            let key = format!("{} must sign, not {}", after.threshold, before.threshold);
            found.push(Difference {
                role: role_name(role),
                key,
                change: "threshold",
            });
        }
    }
    found
}

/// Signs a root that somebody else began, and puts it in force once enough have.
pub fn countersign(
    args: &CountersignArgs,
    store: &KeyStore,
    context: &Context,
) -> anyhow::Result<Exit> {
    let bytes = release::read(&args.file)?;
    store.root()?;
    let countersigned = store.countersigned(&bytes).map_err(|error| {
        let what = format!("{}: {}", args.file.display(), crate::exit::words(&error));
        // What can't be read or signed here says nothing of the root.
        let exit = match error {
            KeyError::Root { .. } | KeyError::NotNext { .. } | KeyError::Forged(_) => Exit::Refused,
            _ => Exit::Error,
        };
        Failure::new(exit, what)
            .next("a root on its way comes from `edgeward keys rotate` or `revoke` with --partial")
    })?;
    let mut changes = args.dry_run.changes();
    release::write(&mut changes, &args.file, &countersigned.signed)?;
    let in_force = countersigned.missing.is_none();
    if in_force {
        let what = format!("put root version {} in force", countersigned.next.version);
        changes.make(what, || Ok(store.accept(&countersigned.signed)?))?;
    }
    let report = Countersigned {
        root_version: countersigned.next.version,
        added_signatures: countersigned.added,
        valid_signatures: countersigned.missing.map(|(valid, _)| valid),
        needed_signatures: countersigned.missing.map(|(_, needed)| needed),
        in_force: in_force && !changes.are_only_said(),
        differences: differences(&countersigned.old, &countersigned.next),
    };
    changes.emit(context, &report, |report, w| {
        let mut table = Table::new(["role", "key", "change"]);
        for difference in &report.differences {
            let key = difference.key.clone();
            table.row([difference.role.into(), key, difference.change.into()]);
        }
        table.write(w)?;
        match countersigned.missing {
            None => writeln!(w, "root version {}: enough signatures", report.root_version),
            Some((valid, needed)) => writeln!(
                w,
                "root version {}: {valid} of {needed} signatures; pass the file on",
                report.root_version
            ),
        }
    })?;
    Ok(Exit::Ok)
}
