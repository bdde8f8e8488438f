//! The life of a mount: open, mount, serve, and at the end unmount and close, whatever ended it.
//!
//! ```text
//! main thread ──── waits for: the session's end, a signal, a panic
//! session ──────── two event loops, each with its own descriptor
//! eager ────────── keeps one of them from sleeping while requests come
//! committer ────── answers fsync        worker ── background work
//! seeker ───────── answers SEEK_HOLE    signals ─ turns signals into events
//! shortage ─────── answers write(2) while space is short
//! ```

use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fuser::{Config, Session, SessionACL};
use nix::sys::signal::{SigSet, Signal};
use sefs_tools::{Failure, Image, MountExit};

use crate::adapter::Adapter;
use crate::arguments::Request;
use crate::attach::{self, Mount, Unmounted, Wanted};
use crate::committer::Committer;
use crate::eager;
use crate::open::Opened;
use crate::report::note;
use crate::served::Served;
use crate::shortage::Shortage;
use crate::{seeker, worker};

/// After the mount was taken out of the tree, its users get that long to close what they have open.
const GRACE: Duration = Duration::from_secs(10);
/// Once nobody uses it, the session ends at once; longer means that an event loop hangs.
const ENDING: Duration = Duration::from_secs(10);

/// Below this much free space writers are asked to wait for room: a share of the volume, within bounds.
const SHORT_SHARE: u64 = 8;
const SHORT_MOST_BYTES: u64 = 16 << 20;
const SHORT_LEAST_BYTES: u64 = 1 << 20;

const EVENT_LOOPS: usize = 2;

/// What the main thread waits for.
enum Event {
    /// The event loops have ended: the filesystem was unmounted, or the connection broke.
    Ended(std::io::Result<()>),
    /// Somebody wants this process to end.
    Signal(Signal),
    /// A thread panicked: a request will never be answered.
    Panicked,
}

/// A mount that runs.
pub(crate) struct Running {
    served: Arc<Served>,
    committer: Arc<Committer>,
    mount: Mount,
    events: Receiver<Event>,
    session_ended: bool,
    helpers: Vec<JoinHandle<()>>,
    /// Unlocks when everything else is done.
    _images: Vec<Image>,
}

/// Why it does not run.
pub(crate) struct NotRunning {
    pub(crate) failure: Failure,
    pub(crate) exit: MountExit,
}

/// Mounts an open volume and starts to serve it.
pub(crate) fn start(request: &Request, opened: Opened) -> Result<Running, NotRunning> {
    let signals = block_signals();
    let served = Arc::new(Served::new(opened.volume));
    let committer = Arc::new(Committer::default());
    let wanted = Wanted {
        source: opened.source,
        point: request.dir.canonicalize().unwrap_or_else(|_| request.dir.clone()),
        flags: request.flags,
        allow_other: request.allow_other,
    };
    let attached = attach::attach(&wanted).map_err(|error| NotRunning::mounting(&wanted, &error));
    let (connection, mount) = attached.inspect_err(|_| close_quietly(&served))?;
    let size_bytes = opened.info.size_bytes;
    let started = serve_on(connection, signals, (&served, &committer), &mount, size_bytes, request.busy_poll);
    match started {
        Ok((events, helpers)) => {
            Ok(Running { served, committer, mount, events, session_ended: false, helpers, _images: opened.images })
        }
        Err(error) => {
            let _ = mount.detach();
            close_quietly(&served);
            Err(NotRunning::session(&wanted, &error))
        }
    }
}

/// Starts everything that runs beside the main thread: returns what tells of events, and the threads to wait for.
fn serve_on(
    connection: OwnedFd,
    signals: SigSet,
    (served, committer): (&Arc<Served>, &Arc<Committer>),
    mount: &Mount,
    size_bytes: u64,
    busy_poll: bool,
) -> std::io::Result<(Receiver<Event>, Vec<JoinHandle<()>>)> {
    let (sought, seeks) = channel();
    let (asked, questions) = channel();
    let notified = Arc::new(OnceLock::new());
    let limit_bytes = (size_bytes / SHORT_SHARE).clamp(SHORT_LEAST_BYTES, SHORT_MOST_BYTES);
    let shortage = Arc::new(Shortage::new(limit_bytes, asked, Arc::clone(&notified)));
    let adapter = Adapter {
        served: Arc::clone(served),
        committer: Arc::clone(committer),
        seeker: sought,
        shortage: Arc::clone(&shortage),
        place: mount.place(),
        notifier: Arc::clone(&notified),
    };
    let device = connection.try_clone()?;
    let session = session(adapter, connection)?;
    let notifier = notified.get_or_init(|| session.notifier()).clone();
    let (tell, events) = channel();
    watch_panics(&tell);
    let (shared, committing) = (Arc::clone(served), Arc::clone(committer));
    let committing = thread("committer", move || committing.run(&shared))?;
    let (shared, room) = (Arc::clone(served), Arc::clone(&shortage));
    // The kernel's limits are what the session agreed on, so they are changed after that.
    let throttle = mount.tune();
    let working = thread("worker", move || worker::run(&shared, &room, throttle))?;
    let mut helpers = vec![committing, working];
    if busy_poll {
        let shared = Arc::clone(served);
        // The loops are named after their numbers, and the last one has the descriptor that all others were cloned from.
        let last = format!("fuser-{}", EVENT_LOOPS - 1);
        helpers.push(thread("eager", move || eager::run(&shared.requests, &device, &last))?);
    }
    // The others end with the process: one waits for signals, three depend on event loops, which may hang.
    let (shared, told) = (Arc::clone(served), notifier.clone());
    thread("seeker", move || seeker::run(&seeks, &shared, &told))?;
    let shared = Arc::clone(served);
    thread("shortage", move || shortage.run(&questions, &shared, &notifier))?;
    let told = tell.clone();
    thread("signals", move || pass_on(&signals, &told))?;
    thread("session", move || drop(tell.send(Event::Ended(session.run()))))?;
    Ok((events, helpers))
}

fn session(adapter: Adapter, connection: OwnedFd) -> std::io::Result<Session<Adapter>> {
    let mut config = Config::default();
    config.n_threads = Some(EVENT_LOOPS);
    config.clone_fd = true;
    // Who may enter is the kernel's business: it knows `allow_other` and checks permissions.
    Session::from_fd(adapter, connection, SessionACL::All, config)
}

/// Nothing was changed yet, so there is nothing that could be lost.
fn close_quietly(served: &Served) {
    let _ = served.close();
}

impl NotRunning {
    fn mounting(wanted: &Wanted, error: &attach::MountError) -> NotRunning {
        NotRunning { failure: Failure::new(wanted.source.display(), error), exit: MountExit::Failed }
    }

    fn session(wanted: &Wanted, error: &std::io::Error) -> NotRunning {
        let reason = format!("the FUSE session did not start: {error}");
        NotRunning { failure: Failure::new(wanted.source.display(), reason), exit: MountExit::System }
    }
}

impl Running {
    /// Serves until the end, and closes the volume. An error means that the last changes may not be durable.
    pub(crate) fn serve(mut self) -> sefs::error::Result<()> {
        match self.events.recv() {
            Ok(Event::Ended(outcome)) => self.ended(outcome),
            Ok(Event::Signal(signal)) => {
                note(&format_args!("{signal}: unmounting"));
                self.unmount();
            }
            Ok(Event::Panicked) | Err(_) => {
                note(&"internal error: unmounting, so that the volume closes whole");
                self.unmount();
            }
        }
        self.close()
    }

    /// The session is over. If that was not an unmount, what is left in the mount table is dead: it goes too.
    fn ended(&mut self, outcome: std::io::Result<()>) {
        self.session_ended = true;
        if let Err(error) = outcome {
            note(&format_args!("the FUSE session ended: {error}"));
        }
        if self.mount.is_dead() {
            let _ = self.mount.detach();
        }
    }

    fn unmount(&mut self) {
        let patience = match self.mount.detach() {
            Ok(Unmounted::Yes | Unmounted::Before) => ENDING,
            Ok(Unmounted::Lazily) => {
                note(&format_args!(
                    "{} is busy: no longer reachable, and closed when its users let go, at the latest in {} seconds",
                    self.mount.point().display(),
                    GRACE.as_secs()
                ));
                GRACE
            }
            Err(error) => {
                note(&format_args!(
                    "{} cannot be unmounted: {error}; closing the volume",
                    self.mount.point().display()
                ));
                Duration::ZERO
            }
        };
        self.await_end(patience);
    }

    /// Waits until the session ends, at most `patience`, and not past a second signal.
    fn await_end(&mut self, patience: Duration) {
        let deadline = Instant::now() + patience;
        while !self.session_ended {
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Event::Ended(outcome)) => self.ended(outcome),
                Ok(Event::Panicked) => {}
                Ok(Event::Signal(_)) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn close(self) -> sefs::error::Result<()> {
        self.served.activity.close();
        self.served.requests.close();
        self.committer.close();
        for helper in self.helpers {
            // A helper that panicked has said so.
            let _ = helper.join();
        }
        self.served.close()
    }
}

fn thread(name: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.into()).spawn(body)
}

/// From here on these signals are taken by one thread. SIGXFSZ is blocked too: a write past the file size limit is then
/// an error instead of the process's death.
fn block_signals() -> SigSet {
    let ending = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    let mut blocked = ending;
    blocked.add(Signal::SIGXFSZ);
    // Cannot fail: the set is a valid one.
    let _ = blocked.thread_block();
    ending
}

fn pass_on(signals: &SigSet, tell: &Sender<Event>) {
    while let Ok(signal) = signals.wait() {
        if tell.send(Event::Signal(signal)).is_err() {
            return;
        }
    }
}

/// A panic in an event loop leaves a request without an answer and its caller waiting. (fuser 0.18.0 panics on some
/// timestamps near the end of 64 bits, before this crate sees the request.)
fn watch_panics(tell: &Sender<Event>) {
    let tell = tell.clone();
    std::panic::set_hook(Box::new(move |info| {
        match info.location() {
            Some(place) => note(&format_args!("internal error at {}:{}", place.file(), place.line())),
            None => note(&"internal error"),
        }
        let _ = tell.send(Event::Panicked);
    }));
}
