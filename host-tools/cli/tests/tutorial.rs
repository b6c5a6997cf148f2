//! `docs/TUTORIAL.md`, command by command as a reader types them.
//!
//! Console blocks are run in a shell, in their order, in a home folder of their own. `$` is the
//! reader's terminal, in which each command must end with exit code 0; `1$` and `2$` are terminals
//! whose command goes on until the end. The one difference from the page: ports that are free.

#[allow(dead_code, reason = "each test takes what it needs")]
mod common;

use common::process::{Running, free_ports, text};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The lines of all fenced blocks of this language.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<Vec<&'a str>> {
    let fence = format!("```{language}");
    let mut lines = page.lines();
    let mut found = Vec::new();
    while lines.by_ref().any(|line| line == fence) {
        found.push(lines.by_ref().take_while(|line| *line != "```").collect());
    }
    found
}

/// A typed command: which terminal (none for the reader's own), and the line.
fn commands(page: &str) -> Vec<(Option<char>, String)> {
    let typed = |line: &&str| {
        let (prompt, command) = line.split_once("$ ")?;
        let terminal = match prompt {
            "" => None,
            "1" | "2" => prompt.chars().next(),
            _ => return None,
        };
        Some((terminal, command.to_owned()))
    };
    let blocks = blocks(page, "console");
    blocks.iter().flatten().filter_map(typed).collect()
}

/// The reader: a home folder, the folder they are in, and their other terminals.
struct Reader {
    home: tempfile::TempDir,
    folder: PathBuf,
    path: String,
    broker: u16,
    http: u16,
    terminals: Vec<Running>,
}

impl Reader {
    /// In the repository, with `edgeward` and this Python at hand.
    fn new(python: &Path) -> Self {
        let bins = [
            Path::new(env!("CARGO_BIN_EXE_edgeward")).parent(),
            python.parent(),
        ];
        let bins: Vec<_> = bins
            .iter()
            .flatten()
            .map(|bin| bin.display().to_string())
            .collect();
        let path = std::env::var("PATH").unwrap_or_default();
        let [broker, http] = free_ports();
        Self {
            home: tempfile::tempdir().expect("a folder"),
            folder: Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."),
            path: format!("{}:{path}", bins.join(":")),
            broker,
            http,
            terminals: Vec::new(),
        }
    }

    fn shell(&self, line: &str) -> Command {
        let mut shell = Command::new("sh");
        for name in ["HOME", "OUTPUT", "CONFIG", "FLEET", "LOG"] {
            shell.env_remove(format!("EDGEWARD_{name}"));
        }
        shell
            .args(["-c", line])
            .current_dir(&self.folder)
            .env("HOME", self.home.path())
            .env("PATH", &self.path)
            .env("EDGEWARD_BROKER", format!("127.0.0.1:{}", self.broker))
            .env("EDGEWARD_HTTP", format!("127.0.0.1:{}", self.http));
        shell
    }

    /// Types a command, expects that it ends well, and returns what it printed.
    fn types(&mut self, line: &str) -> String {
        if let Some(folder) = line.strip_prefix("cd ~/") {
            self.folder = self.home.path().join(folder);
            return String::new();
        }
        let output = Running::start(&mut self.shell(line)).end();
        let said = text(&[output.stdout, output.stderr].concat());
        let status = output.status;
        assert!(status.success(), "`{line}` ended with {status}: {said}");
        said
    }

    /// Types a command in a terminal of its own, and waits until it has said `ready`.
    fn leaves_running(&mut self, line: &str, ready: &str) {
        // The shell becomes the command, so that ending the one ends the other.
        let terminal = Running::start(&mut self.shell(&format!("exec {line}")));
        terminal.until_it_says(ready);
        self.terminals.push(terminal);
    }

    /// Saves the page's configuration, with the port that is free here.
    fn saves_configuration(&self, page: &str) {
        let blocks = blocks(page, "toml");
        assert_eq!(blocks.len(), 1, "the page has one file to save");
        let host = "host = \"127.0.0.1\"";
        let text = blocks[0].join("\n");
        assert!(text.contains(host), "{text}");
        let text = text.replace(host, &format!("{host}\nport = {}", self.broker));
        std::fs::write(self.folder.join("agent.toml"), text).expect("agent.toml");
    }
}

/// The rest of the line that begins with `name`.
fn value<'a>(output: &'a str, name: &str) -> &'a str {
    let line = output.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name:?} in {output}"))
        .trim()
}

/// What the output of a command must say. `digest` is the release's, once it is known.
fn check(line: &str, output: &str, digest: &mut String) {
    let says = |wanted: &str| {
        assert!(
            output.contains(wanted),
            "`{line}`: no {wanted:?} in {output}"
        )
    };
    let words: Vec<_> = line.split_whitespace().take(3).collect();
    match words.as_slice() {
        ["edgeward", "import", _] => says("linux  tract    yes"),
        ["edgeward", "pack", _] => {
            value(output, "digest").clone_into(digest);
            let hex = digest.bytes().all(|byte| byte.is_ascii_hexdigit());
            assert!(digest.len() == 64 && hex, "digest {digest:?}");
            says("skew      0 of 1047");
        }
        ["edgeward", "verify", _] => says(&format!("ok: {digest}")),
        ["edgeward", "inspect", _] => {
            says(digest);
            says("this board would take it");
        }
        ["edgeward", "eval", _] => {
            let percent = value(output, "accuracy").trim_end_matches('%');
            let percent: f32 = percent.parse().expect("a number");
            assert!(percent >= 95.0, "accuracy {percent} %");
        }
        ["edgeward", "publish", _] => assert_eq!(value(output, "digest"), digest),
        ["edgeward", "rollout", "status"] => {
            says(", done");
            says("(1 confirmed, 0 busy, 0 silent, 0 waiting, 0 failed)");
        }
        ["edgeward", "device", "show"] => says("digits 1.0.0, counter 1, confirmed in slot A"),
        ["edgeward", "watch", _] if line.contains("--summaries") => {
            says("slot A: confirmed, digits 1.0.0");
            says("digits 1.0.0 window: 50 samples, 50 inferences, 0 errors");
        }
        ["edgeward", "watch", _] => says("high above_range p"),
        ["python", "feed.py", _] if line.contains("--invert") => {
            says("alarm violation kind=AboveRange feature=p0");
            says("alarm drift");
        }
        ["python", "feed.py", _] => {
            let answers = output.lines().filter(|line| !line.starts_with("alarm"));
            assert!(answers.count() > 200, "{output}");
        }
        _ => {}
    }
}

#[test]
fn every_command_of_the_tutorial_does_what_the_page_says() {
    let Some(python) = std::env::var_os("EDGEWARD_PYTHON") else {
        eprintln!("skipped: EDGEWARD_PYTHON names no Python with models/digits/requirements.txt");
        return;
    };
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/TUTORIAL.md");
    let page = std::fs::read_to_string(page).expect("docs/TUTORIAL.md");
    let commands = commands(&page);
    let ran = |name: &str| commands.iter().any(|(_, line)| line.starts_with(name));
    for name in ["pack", "verify", "eval", "serve", "agent", "rollout start"] {
        assert!(ran(&format!("edgeward {name}")), "the page has no {name}");
    }
    let mut reader = Reader::new(Path::new(&python));
    let mut digest = String::new();
    for (terminal, line) in &commands {
        match terminal {
            None => {
                let output = reader.types(line);
                println!("$ {line}\n{output}");
                check(line, &output, &mut digest);
            }
            Some('1') => {
                reader.leaves_running(line, "collecting fleet default");
                reader.saves_configuration(&page);
            }
            Some(_) => reader.leaves_running(line, "connected"),
        }
    }
}
