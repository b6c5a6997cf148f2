//! The agent: one process that does for a Linux board what firmware does for a microcontroller.
//!
//! Threads: *inference* owns the runtime and answers samples; *control* (the caller's thread) owns
//! flash, outbox and update client; *mqtt* owns the connection; *loader* builds engines. They share
//! bounded channels and nothing else, so that neither a slow disk nor a dead broker nor a large
//! download reaches a prediction.

mod report;
mod setup;

use super::config::Config;
use super::flash::FileFlash;
use super::inference::{Command, Inference, Loaded, Report, unix_ms};
use super::loader::{self, Done, Job, STACK_BYTES};
use super::mqtt::{self, Mqtt};
use super::stats::{SlotStatus, Stats, hex};
use super::watchdog::{self, Beat, Supervisor};
use super::{key, provision, source};
use crate::control::{Action, Control, Mode, Now, OFFLINE, Parts, Purpose};
use crate::transport::{Connector, Event, Transport, hand_over};
use crate::{MAX_FEATURES as F, MAX_OUTPUTS as C};
use anyhow::Result;
use edgeward::bundle::CHUNK_BYTES;
use edgeward::engine::board::BoardEngine;
use edgeward::recorder::Recorder;
use edgeward::slots::Slot;
use edgeward::sync::UpdateClient;
use edgeward::sync::client::MAX_HEAD_CHUNKS;
use edgeward::telemetry::outbox::max_buffer_bytes;
use edgeward::telemetry::{SlotReport, Summary, Text, release_id};
use edgeward::topic::{self, Channel};
use edgeward::trust::Signer;
use edgeward::trust::ring::{RingSigner, RingVerifier};
use report::Answer;
use setup::{setup, sync_config, text};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Records that the outbox may hold at once.
pub(super) const RECORDS: usize = 1024;
/// Bytes of the outbox's buffer.
pub(super) const BUFFER: usize = max_buffer_bytes(F, C);
/// Chunks on their way at once.
const CHUNKS: usize = 8;
/// Longest nap of the control thread.
const NAP: Duration = Duration::from_millis(100);
/// How long to wait after a failure of the flash before the next try.
const TROUBLE: Duration = Duration::from_secs(1);
/// What one turn of the control thread does at most before it looks at the rest.
const TURN: usize = 256;
/// Reports that one turn stores at most: each waits for the disk, and the broker waits meanwhile.
const REPORTS: usize = 16;
/// How long the last frames may take on the way down.
const FAREWELL: Duration = Duration::from_secs(1);

type Head<'a> =
    Control<'a, FileFlash, FileFlash, RingVerifier, RingSigner, F, C, RECORDS, BUFFER, CHUNKS>;

/// Runs the agent until `stop` is set.
///
/// # Errors
/// When it can't start: configuration, key, flash, trust root, source. Once it runs, what fails is
/// logged and tried again.
pub fn run(config: &Config, stop: &Arc<AtomicBool>) -> Result<()> {
    let tags = config
        .tags
        .iter()
        .map(|tag| text(tag))
        .collect::<Result<heapless::Vec<Text, 8>>>()?;
    let signer = key::load_or_create(&config.key)?;
    let (mut slots, layout) = provision::open_slots(config)?;
    let setup = setup(config, &tags)?;
    let broker = mqtt::options(config)?;
    // What fails up to here, or is ended below, is no death of a release: it had no part in it.
    let number = slots.state().boot.saturating_add(1);
    let mut outbox = provision::open_outbox(config, &signer.public_key(), number)?;
    let boot = slots
        .begin_boot()
        .map_err(|error| anyhow::anyhow!("slots: {error:?}"))?;
    tracing::info!(boot = slots.state().boot, decision = ?boot, "boot");
    let mut head = vec![0; MAX_HEAD_CHUNKS as usize * CHUNK_BYTES];
    let begun = Instant::now();
    let sync = sync_config(config, &tags, layout.slot_bytes);
    let parts = Parts {
        setup,
        signer,
        verifier: RingVerifier,
        slots: &mut slots,
        client: UpdateClient::new(sync, RingVerifier, &mut head),
        outbox: &mut outbox,
        spare_epoch: provision::random()?,
    };
    let mut control = Box::new(Control::new(parts, now(begun)));
    control.begin(boot, now(begun))?;
    let stats = Arc::new(Stats::default());
    {
        let mut status = stats.status();
        status.device.clone_from(&config.device);
        status.fleet.clone_from(&config.fleet);
    }
    let threads = match Threads::start(config, stats.clone(), stop.clone()) {
        Ok(threads) => threads,
        Err(error) => {
            control.end()?;
            return Err(error);
        }
    };
    let mut agent = Agent {
        control,
        transport: Mqtt::new(broker),
        threads,
        stats,
        begun,
        ready: [None, None],
        commands: VecDeque::new(),
        unwritten: None,
        unanswered: None,
        unstored: None,
        connected: false,
        troubled: false,
        restarted: false,
        shown: None,
        recorder_bytes: config.recorder_bytes as usize,
        snapshot: None,
    };
    agent.live(stop);
    agent.end(config);
    Ok(())
}

fn now(begun: Instant) -> Now {
    Now {
        monotonic_ms: begun.elapsed().as_millis() as u64,
        unix_ms: Some(unix_ms()).filter(|&ms| ms > 0),
    }
}

/// The other threads, and the channels to them.
struct Threads {
    commands: SyncSender<Command<BoardEngine>>,
    reports: Receiver<Report<BoardEngine>>,
    summaries: Receiver<Summary<F, C>>,
    jobs: Sender<Job>,
    done: Receiver<Done>,
    inference: JoinHandle<()>,
}

impl Threads {
    fn start(config: &Config, stats: Arc<Stats>, stop: Arc<AtomicBool>) -> Result<Self> {
        let (commands, commands_in) = sync_channel(16);
        let (reports_out, reports) = sync_channel(1024);
        let (summaries_out, summaries) = sync_channel(8);
        let (jobs, jobs_in) = mpsc::channel();
        let (done_out, done) = mpsc::channel();
        let control = thread::current();
        let beat = Beat::default();
        let loading = Beat::default();
        for (beat, hang_ms, what) in [
            (&beat, config.hang_ms, "an inference"),
            (&loading, config.load_hang_ms, "a received release's load"),
        ] {
            if hang_ms > 0 {
                let budget = Duration::from_millis(u64::from(hang_ms));
                watchdog::start(beat.clone(), budget, what)?;
            }
        }
        loader::spawn(jobs_in, done_out, control.clone(), loading)?;
        let recorder = (config.recorder_bytes > 0)
            .then(|| Recorder::new(vec![0; config.recorder_bytes as usize]));
        let feeds = source::start(&config.source, stats.clone(), stop.clone())?;
        let inference = thread::Builder::new()
            .name("inference".into())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                let work = || {
                    let mut inference = Inference::new(
                        commands_in,
                        reports_out,
                        summaries_out,
                        control,
                        stats,
                        beat,
                    );
                    if let Some(recorder) = recorder {
                        inference = inference.recorded(recorder);
                    }
                    source::work(&mut inference, &feeds, &stop);
                };
                // A release that panics is one that crashes the board: the next boot counts it.
                if std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err() {
                    tracing::error!("the inference thread died");
                    std::process::abort();
                }
            })?;
        Ok(Self {
            commands,
            reports,
            summaries,
            jobs,
            done,
            inference,
        })
    }
}

struct Agent<'a> {
    control: Box<Head<'a>>,
    transport: Mqtt,
    threads: Threads,
    stats: Arc<Stats>,
    begun: Instant,
    /// Releases that are loaded and do not run yet, by slot.
    ready: [Option<Loaded<BoardEngine>>; 2],
    commands: VecDeque<Command<BoardEngine>>,
    /// The verdict on a trial or a shadow that could not be written down, and when that is tried again.
    unwritten: Option<(Report<BoardEngine>, Instant)>,
    /// What the loader came to and could not be written down, and when that is tried again.
    unanswered: Option<(Answer, Instant)>,
    /// The window that could not be stored, and when that is tried again.
    unstored: Option<(Summary<F, C>, Instant)>,
    connected: bool,
    /// Flash or journal failed in the last turn.
    troubled: bool,
    /// It was said that the outbox was begun anew.
    restarted: bool,
    shown: Option<Instant>,
    /// Bytes of the flight recorder.
    recorder_bytes: usize,
    /// The copy of it that is being sent.
    snapshot: Option<Recorder<Vec<u8>>>,
}

impl Agent<'_> {
    /// Turn after turn, until `stop` is set.
    fn live(&mut self, stop: &AtomicBool) {
        self.transport.connect();
        let mut supervisor = Supervisor::from_env();
        supervisor.ready();
        while !stop.load(Ordering::Relaxed) {
            self.turn();
            supervisor.alive();
            thread::park_timeout(self.nap().min(supervisor.patience()));
        }
        supervisor.stopping();
    }

    /// Everything that is to be done now. True when there is likely more.
    fn turn(&mut self) -> bool {
        let mut busy = self.receive();
        busy |= self.reports();
        busy |= self.act();
        while let Some(command) = self.commands.pop_front() {
            if let Err(TrySendError::Full(command)) = self.threads.commands.try_send(command) {
                self.commands.push_front(command);
                break;
            }
        }
        self.show();
        if busy {
            thread::current().unpark();
        }
        busy
    }

    fn nap(&self) -> Duration {
        if self.troubled {
            return TROUBLE;
        }
        if !self.connected {
            return NAP;
        }
        let now_ms = now(self.begun).monotonic_ms;
        let deadline = self.control.next_deadline_ms();
        deadline.map_or(NAP, |at_ms| {
            NAP.min(Duration::from_millis(at_ms.saturating_sub(now_ms)))
                .max(Duration::from_millis(1))
        })
    }

    /// What came from the broker.
    fn receive(&mut self) -> bool {
        for _ in 0..TURN {
            let now = now(self.begun);
            let (control, connected) = (&mut self.control, &mut self.connected);
            let more = self.transport.poll(&mut |event| match event {
                Event::Connected { session_present } => {
                    tracing::info!(session_present, "connected");
                    *connected = true;
                    control.connected(session_present);
                }
                Event::Disconnected => {
                    *connected = false;
                    control.disconnected();
                }
                Event::Message { topic, payload } => {
                    if let Err(error) = control.message(topic, payload, now) {
                        tracing::error!(%error, topic, "message");
                    }
                }
            });
            if !more {
                return false;
            }
            // However many messages a broker sends at once, what one of them decided is done before
            // the next is looked at. Acknowledgements decide nothing and share one write.
            if self.control.is_pressing() && !self.troubled {
                self.act();
            }
        }
        true
    }

    /// What came from the other threads.
    fn reports(&mut self) -> bool {
        let now = now(self.begun);
        let mut busy = false;
        if let Some((report, _)) = self.unwritten.take_if(|(_, at)| *at <= Instant::now()) {
            self.report(report, now);
        }
        for _ in 0..REPORTS {
            let Ok(report) = self.threads.reports.try_recv() else {
                break;
            };
            busy = true;
            self.report(report, now);
        }
        self.summaries(now);
        if let Some((answer, _)) = self.unanswered.take_if(|(_, at)| *at <= Instant::now()) {
            self.answer(answer, now);
        }
        while let Ok(done) = self.threads.done.try_recv() {
            busy = true;
            self.done(done, now);
        }
        busy
    }

    /// A release was loaded, or was not.
    fn done(&mut self, done: Done, now: Now) {
        let outcome = match done.outcome {
            Ok(loaded) => {
                let policy = loaded.runtime.policy().trial;
                self.ready[done.slot as usize] = Some(loaded);
                Ok(policy)
            }
            Err(refused) => {
                let release = hex(&done.release);
                let (reason, detail) = (refused.reason, refused.detail);
                tracing::warn!(slot = ?done.slot, release, ?reason, detail, "not loaded");
                Err(reason)
            }
        };
        let answer = Answer {
            slot: done.slot,
            release: done.release,
            purpose: done.purpose,
            outcome,
        };
        self.answer(answer, now);
    }

    /// Subscribes to what the application's head wants. A subscription that can't be made has a transport that
    /// says so, and the update client asks again; what is not wanted is forgotten, told to the broker or not.
    fn subscribe(&mut self) {
        while let Some((topic, wanted)) = self.control.subscription() {
            let _ = match wanted {
                true => self.transport.subscribe(&topic),
                false => self.transport.unsubscribe(&topic),
            };
            self.control.subscribed();
        }
    }

    /// What the application's head wants.
    fn act(&mut self) -> bool {
        self.troubled = false;
        for _ in 0..TURN {
            let now = now(self.begun);
            self.subscribe();
            let action = match self.control.poll(now) {
                Ok(Some(action)) => action,
                Ok(None) => {
                    self.send_part(now);
                    return false;
                }
                Err(error) => {
                    tracing::error!(%error, "control");
                    self.troubled = true;
                    self.send_part(now);
                    return false;
                }
            };
            let own = match hand_over(action, &mut self.transport) {
                Ok(own) => own,
                Err(error) => {
                    tracing::debug!(?error, "publish");
                    if let Some(error) = self.control.not_taken() {
                        tracing::error!(%error, "control");
                        self.troubled = true;
                    }
                    return false;
                }
            };
            match own {
                Some(Action::Load { slot, purpose }) => self.load(slot, purpose, now),
                Some(Action::Run { slot, mode }) => self.run(slot, mode),
                Some(Action::Stop(slot)) => {
                    tracing::info!(?slot, "stop");
                    self.ready[slot as usize] = None;
                    // What it came to in its trial says nothing of the next one.
                    self.unwritten.take_if(|(report, _)| report.is_of(slot));
                    self.commands.push_back(Command::Stop(slot));
                }
                Some(Action::Pull) => self.pull(),
                _ => {}
            }
        }
        true
    }

    /// Loads what a slot holds, unless it is loaded already.
    fn load(&mut self, slot: Slot, purpose: Purpose, now: Now) {
        let record = self.control.slots().record(slot);
        let (digest, bytes) = (record.digest, record.total_bytes);
        let release = release_id(&digest);
        let ready = self.ready[slot as usize].as_ref();
        let ready = ready.filter(|loaded| loaded.runtime.release() == release);
        if let Some(loaded) = ready.filter(|_| purpose != Purpose::SelfTest) {
            let policy = loaded.runtime.policy().trial;
            let answer = Answer {
                slot,
                release,
                purpose,
                outcome: Ok(policy),
            };
            return self.answer(answer, now);
        }
        tracing::info!(?slot, release = hex(&release), ?purpose, "load");
        let mut content = vec![0; bytes as usize];
        if let Err(error) = self.control.slots_mut().read(slot, 0, &mut content) {
            // An empty release can't be loaded, which is what there is to say.
            tracing::error!(?error, ?slot, "read");
            content.clear();
        }
        let job = Job {
            slot,
            digest,
            purpose,
            bytes: content,
        };
        if self.threads.jobs.send(job).is_err() {
            tracing::error!("the loader is gone");
        }
    }

    fn run(&mut self, slot: Slot, mode: Mode) {
        tracing::info!(?slot, ?mode, "run");
        match self.ready[slot as usize].take() {
            Some(loaded) => self.commands.push_back(Command::Run(loaded, mode)),
            None if mode == Mode::Trial => self.commands.push_back(Command::Promote(slot)),
            None => tracing::error!(?slot, "not loaded"),
        }
    }

    /// Brings what is shown up to date, now and then.
    fn show(&mut self) {
        if self.shown.is_some_and(|at| at.elapsed() < NAP) {
            return;
        }
        self.shown = Some(Instant::now());
        if self.control.outbox_restarted() && !self.restarted {
            self.restarted = true;
            tracing::warn!(
                "the host has frames of this outbox that are not in it: an old copy of its file came \
                 back, or another board uses a copy. A new one was begun; what waited in it is lost"
            );
        }
        let (slots, outbox) = (self.control.slots(), self.control.outbox());
        let state = slots.state();
        let slot_status = |slot: SlotReport| SlotStatus {
            state: format!("{:?}", slot.state),
            release: hex(&slot.release),
            version: slot.version.as_str().to_owned(),
            counter: slot.counter,
        };
        let mut status = self.stats.status();
        status.boot = state.boot;
        status.connected = self.connected;
        status.slots = self.control.birth().slots.map(slot_status).to_vec();
        status.confirmed = state.confirmed;
        status.floor = state.floor;
        status.root_version = state.root.version;
        status.desired = state.desired_sequence;
        status.last_failure = state
            .last_failure
            .map(|(release, reason)| (hex(&release), format!("{reason:?}")));
        status.outbox_records = outbox.len();
        status.epoch = format!("{:08x}", outbox.epoch());
        status.next_sequence = outbox.next_sequence();
        status.acknowledged = outbox.acknowledged();
        status.unreported_refusals = self.control.unreported_refusals();
        status.refused_subscriptions = self.transport.refused_subscriptions();
    }

    /// An orderly end: the open window is stored, what can be sent is sent, the broker is told.
    fn end(mut self, config: &Config) {
        tracing::info!("stopping");
        let deadline = Instant::now() + source::FINISH;
        while !self.threads.inference.is_finished() && Instant::now() < deadline {
            if !self.reports() {
                thread::park_timeout(Duration::from_millis(5));
            }
        }
        self.store_the_last();
        let deadline = Instant::now() + FAREWELL;
        while self.connected && Instant::now() < deadline {
            let busy = self.turn();
            if !busy && self.control.flying() == 0 {
                break;
            }
            thread::park_timeout(Duration::from_millis(5));
        }
        if let Err(error) = self.control.end() {
            tracing::error!(%error, "the journal does not know of this orderly end");
        }
        if self.connected {
            let state = topic::device(&config.fleet, &config.device, Channel::State);
            let told = self.transport.publish(&state, OFFLINE.as_bytes(), true);
            if let Err(error) = told {
                tracing::debug!(?error, "state");
            }
        }
        self.transport.disconnect();
        tracing::info!("stopped");
    }
}
