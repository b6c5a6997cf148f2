//! `edgeward board`: the microcontroller boards that there are, and the beginning of one's own.

use super::change::{Changes, DryRun};
use super::release;
use crate::boards::{self, Board};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::output::Table;
use anyhow::{Context as _, Result};
use std::path::{Path, PathBuf};
use toml::{Table as Toml, Value};

/// Arguments of `board`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the boards whose firmware is in the repository.
    #[command(
        after_help = "Example:\n  edgeward board list -o json\n\nLinux boards need no firmware of their own: they run `edgeward agent`. Changes nothing."
    )]
    List,
    /// Begin the crate of your own board, as a copy of one that is like it.
    #[command(after_help = HELP)]
    New(NewArgs),
}

const HELP: &str = "\
Examples:
  edgeward board new press --like nucleo-h743zi
  edgeward board new press --like qemu-mps2-an386 --folder firmware/press

The copy is a workspace of its own with the same versions of everything, which builds as it is; change what is
otherwise on your board. It leans on the checkout that it was copied from, by its path.
docs/BOARDS.md goes on from here.";

#[derive(Debug, clap::Args)]
struct NewArgs {
    /// The board's name: small letters, digits and dashes.
    name: String,
    /// The board that it is like.
    #[arg(long, value_name = "BOARD")]
    like: String,
    /// The folder to make [default: its name].
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// A checkout of the repository [default: the one that this folder is in].
    #[arg(long, value_name = "DIR")]
    checkout: Option<PathBuf>,
    #[command(flatten)]
    dry_run: DryRun,
}

/// Runs it.
pub fn run(args: &Args, context: &Context) -> Result<Exit> {
    match &args.command {
        Command::List => list(context),
        Command::New(args) => new(args, context),
    }
}

/// How a board is started.
fn started_by(board: &Board) -> &'static str {
    match board.qemu {
        Some(_) => "qemu",
        None => "probe-rs",
    }
}

fn list(context: &Context) -> Result<Exit> {
    let boards = boards::known()?;
    let listed: Vec<_> = boards
        .iter()
        .map(|board| {
            serde_json::json!({
                "name": board.name, "title": board.title, "class": board.class,
                "kernels": board.kernels, "processor": board.target, "started_by": started_by(board),
                "flash_bytes": board.memory.flash_bytes, "ram_bytes": board.memory.ram_bytes,
                "storage_bytes": board.storage.bytes, "arena_bytes": board.arena.bytes,
                "max_features": board.model.features, "max_outputs": board.model.outputs,
                "max_inputs": board.model.inputs,
            })
        })
        .collect();
    context
        .out
        .emit(&serde_json::json!({ "boards": listed }), |_, w| {
            let columns = [
                "board", "class", "flash", "ram", "storage", "arena", "kernels", "by",
            ];
            let mut table = Table::new(columns);
            let kib = |bytes: u64| format!("{}K", bytes / 1024);
            for board in &boards {
                table.row([
                    board.name.clone(),
                    board.class.clone(),
                    kib(board.memory.flash_bytes),
                    kib(board.memory.ram_bytes),
                    kib(board.storage.bytes as u64),
                    kib(board.arena.bytes),
                    board.kernels.join(","),
                    started_by(board).to_owned(),
                ]);
            }
            table.write(w)
        })?;
    Ok(Exit::Ok)
}

/// A crate of one's own.
fn new(args: &NewArgs, context: &Context) -> Result<Exit> {
    check_name(&args.name)?;
    let like = boards::find(&args.like)?;
    let checkout = match &args.checkout {
        Some(folder) => boards::checkout(folder, &like.name).filter(|root| root == folder),
        None => boards::checkout(&std::env::current_dir()?, &like.name),
    };
    let checkout = checkout.ok_or_else(|| {
        let what = format!("there is no boards/{} here to copy", like.name);
        Failure::new(Exit::Error, what)
            .next("run this in a checkout of the repository, or give --checkout")
    })?;
    let checkout = checkout.canonicalize()?;
    let folder = args.folder.clone();
    let folder = folder.unwrap_or_else(|| PathBuf::from(&args.name));
    if std::fs::read_dir(&folder).is_ok_and(|mut entries| entries.next().is_some()) {
        let what = format!("{} is there already", folder.display());
        return Err(Failure::new(Exit::Error, what)
            .next("give another --folder")
            .into());
    }
    let copy = Copy {
        name: &args.name,
        like: &like,
        boards: checkout.join("boards"),
    };
    let mut changes = args.dry_run.changes();
    let files = copy.files()?;
    for (path, text) in &files {
        write(&mut changes, &folder.join(path), text)?;
    }
    let names: Vec<_> = files
        .iter()
        .map(|(path, _)| path.display().to_string())
        .collect();
    let value = serde_json::json!({
        "board": args.name, "like": like.name, "folder": folder.display().to_string(),
        "checkout": checkout.display().to_string(), "files": names,
    });
    changes.emit(context, &value, |_, w| {
        writeln!(
            w,
            "{}: {} files, like {}",
            folder.display(),
            names.len(),
            like.name
        )?;
        writeln!(
            w,
            "build and start it: edgeward flash --board {} NAME",
            Path::new(".").join(&folder).display()
        )
    })?;
    Ok(Exit::Ok)
}

fn check_name(name: &str) -> Result<()> {
    let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let begins = name.starts_with(|c: char| c.is_ascii_lowercase());
    if begins && name.chars().all(letters) && !name.ends_with('-') && name.len() <= 32 {
        return Ok(());
    }
    let what = format!("{name:?} is no name of a board");
    Err(Failure::new(Exit::Usage, what)
        .next("use up to 32 small letters, digits and dashes, and begin with a letter")
        .into())
}

fn write(changes: &mut Changes, path: &Path, text: &str) -> Result<()> {
    if changes.are_only_said() {
        let what = format!("write {} ({} bytes)", path.display(), text.len());
        return changes.make(what, || Ok(())).map(|_| ());
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    release::write(changes, path, text.as_bytes()).map(|_| ())
}

/// A crate and what becomes of it.
struct Copy<'a> {
    name: &'a str,
    like: &'a Board,
    /// The folder `boards` of the checkout.
    boards: PathBuf,
}

impl Copy<'_> {
    /// The new crate's files.
    fn files(&self) -> Result<Vec<(PathBuf, String)>> {
        let from = self.boards.join(&self.like.name);
        let mut files = vec![
            (PathBuf::from("Cargo.toml"), self.manifest()?),
            (
                PathBuf::from("Cargo.lock"),
                read(&self.boards.join("Cargo.lock"))?,
            ),
            (PathBuf::from(".cargo/config.toml"), self.settings()?),
            (PathBuf::from(".gitignore"), "target/\n".to_owned()),
            (PathBuf::from("board.toml"), self.described()?),
            (PathBuf::from("build.rs"), read(&from.join("build.rs"))?),
        ];
        let sources = from.join("src");
        for entry in std::fs::read_dir(&sources).with_context(|| sources.display().to_string())? {
            let path = entry?.path();
            let name = path.file_name().context("a file has a name")?;
            let text = read(&path)?.replace(&self.like.name, self.name);
            files.push((Path::new("src").join(name), text));
        }
        files.sort();
        Ok(files)
    }

    /// `board.toml`, under the new name.
    fn described(&self) -> Result<String> {
        let text = read(&self.boards.join(&self.like.name).join("board.toml"))?;
        let text = text.replace(
            &format!("name = \"{}\"", self.like.name),
            &format!("name = \"{}\"", self.name),
        );
        let title = format!("title = \"{}\"", self.like.title);
        let own = format!("title = \"{}, as {}\"", self.name, self.like.name);
        Ok(text.replace(&title, &own))
    }

    /// What cargo is told in the new folder.
    fn settings(&self) -> Result<String> {
        let text = read(&self.boards.join(".cargo/config.toml"))?;
        Ok(format!(
            "[build]\ntarget = \"{}\"\n\n{text}",
            self.like.target
        ))
    }

    /// A manifest that needs no workspace around it: what it inherits is put in its place.
    fn manifest(&self) -> Result<String> {
        let path = self.boards.join(&self.like.name).join("Cargo.toml");
        let mut manifest: Toml = read(&path)?
            .parse()
            .with_context(|| path.display().to_string())?;
        let path = self.boards.join("Cargo.toml");
        let mut around: Toml = read(&path)?
            .parse()
            .with_context(|| path.display().to_string())?;
        let workspace = around.get("workspace").and_then(Value::as_table);
        let workspace = workspace
            .context("boards/Cargo.toml is a workspace")?
            .clone();
        let of_workspace = |name: &str| {
            let table = workspace.get(name).and_then(Value::as_table).cloned();
            table.with_context(|| format!("boards/Cargo.toml: no [workspace.{name}]"))
        };
        let inherited = of_workspace("package")?;
        let package = table(&mut manifest, "package")?;
        for (key, value) in package.iter_mut() {
            let inherits = value
                .as_table()
                .is_some_and(|it| it.contains_key("workspace"));
            if let Some(own) = inherited.get(key).filter(|_| inherits) {
                *value = own.clone();
            }
        }
        package.insert("name".to_owned(), self.name.into());
        let about = format!("The Edgeward firmware for {}", self.name);
        package.insert("description".to_owned(), about.into());
        for kind in ["dependencies", "build-dependencies"] {
            self.make_absolute(table(&mut manifest, kind)?)?;
        }
        for program in manifest
            .get_mut("bin")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            if let Some(program) = program.as_table_mut() {
                program.insert("name".to_owned(), self.name.into());
            }
        }
        manifest.insert("lints".to_owned(), of_workspace("lints")?.into());
        let profile = around
            .remove("profile")
            .context("boards/Cargo.toml: no [profile]")?;
        manifest.insert("profile".to_owned(), profile);
        let mut own = Toml::new();
        own.insert("resolver".to_owned(), "3".into());
        manifest.insert("workspace".to_owned(), own.into());
        Ok(manifest.to_string())
    }

    /// Paths of crates in the checkout, seen from anywhere.
    fn make_absolute(&self, dependencies: &mut Toml) -> Result<()> {
        let from = self.boards.join(&self.like.name);
        for value in dependencies.iter_mut().map(|(_, value)| value) {
            let Some(path) = value.get_mut("path") else {
                continue;
            };
            let there = from.join(path.as_str().context("a path is text")?);
            let there = there
                .canonicalize()
                .with_context(|| there.display().to_string())?;
            *path = there.display().to_string().into();
        }
        Ok(())
    }
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}

fn table<'a>(manifest: &'a mut Toml, name: &str) -> Result<&'a mut Toml> {
    let table = manifest.get_mut(name).and_then(Value::as_table_mut);
    table.with_context(|| format!("Cargo.toml: no [{name}]"))
}
