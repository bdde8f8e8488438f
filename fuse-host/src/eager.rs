//! Asking for the next request without sleeping, while requests come one after another.
//!
//! A request that finds all event loops asleep waits until the kernel has woken one, mostly on another processor. On a virtual
//! machine that takes longer than most requests do themselves. So while many come, the descriptor of one loop does not block: that
//! loop asks again and again, and has the next request at once. The other loop sleeps as ever, and takes what comes while the
//! first one works.
//!
//! This costs a processor. So it ends soon after the requests do; where requests wait for the disk, which needs processors too
//! and is what the time goes into; and where others want the processor, which shows in the time that the loop had to wait for one.
//! With a single processor it never begins.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::activity::{Activity, Woken};

/// Between looks while requests come.
const TICK: Duration = Duration::from_millis(1);
/// From so many requests in a tick on it is worth a processor; with fewer than half of that, averaged, it is not.
const MANY: f64 = 2.0;
/// After so many ticks without a request it ends at once.
const QUIET_TICKS: u32 = 2;
/// After so many, nobody looks until the next request.
const ASLEEP_TICKS: u32 = 5;
/// Requests are averaged over so many ticks.
const REQUEST_TICKS: f64 = 8.0;
/// Time is averaged over so many: the kernel counts what a thread ran every 4 ms on some machines, and a wait when it is over.
const TIME_TICKS: f64 = 64.0;
/// The share of the time that the loop waits for a processor from which on others want it: a request that wakes the other loop costs
/// it a little every time.
const CROWD: f64 = 0.4;
/// The share of the time that the loop sleeps, which it does for the disk only.
const DISK: f64 = 0.25;
/// So long it sleeps as ever then: the first, and twice as long each time that it was of no use again, up to the second.
const PAUSE_TICKS: [u32; 2] = [200, 1600];
/// So often the kernel's account of the loop is looked for: a loop that is just beginning has no name yet, and some kernels keep no
/// account at all.
const LOOKS: u32 = 100;
/// It was of use if it went on for so many ticks.
const USEFUL_TICKS: u32 = 500;

/// Watches requests until the mount ends. `event_loop` is the name of the thread that reads from `device`.
pub(crate) fn run(requests: &Activity, device: &OwnedFd, event_loop: &str) {
    if std::thread::available_parallelism().map_or(1, std::num::NonZero::get) < 2 {
        return;
    }
    let (mut pace, mut eager, mut before) = (Pace::default(), false, None);
    let mut account = Account { event_loop, file: None, looks: LOOKS };
    loop {
        let (seen, began) = (requests.count(), Instant::now());
        let asleep = pace.is_asleep();
        let woken = if asleep { requests.wait(seen, None) } else { requests.rest(TICK) };
        if woken == Woken::Closed {
            let _ = set_blocking(device, true);
            return;
        }
        let now = account.read();
        let elapsed = if asleep { TICK } else { began.elapsed() };
        let tick = Tick {
            requests: requests.count().wrapping_sub(seen) as f64,
            seconds: elapsed.as_secs_f64(),
            // What cannot be known is taken for a crowd.
            scheduled: now.zip(before).map_or((0.0, elapsed.as_secs_f64()), |(now, before)| now.since(before)),
        };
        before = now;
        let wanted = pace.tick(&tick);
        if wanted != eager && set_blocking(device, !wanted).is_ok() {
            eager = wanted;
        }
    }
}

/// What happened in a tick.
struct Tick {
    requests: f64,
    seconds: f64,
    /// For how long the loop had a processor, and for how long it waited for one, in seconds.
    scheduled: (f64, f64),
}

/// Decides, tick by tick.
#[derive(Default)]
struct Pace {
    eager: bool,
    quiet: u32,
    pause: u32,
    /// How long the last pause was, if nothing has changed since.
    paused: u32,
    eager_ticks: u32,
    /// Of the last ticks, each new one whole and older ones less and less.
    requests: f64,
    seconds: f64,
    /// Of those since it began.
    eager_seconds: f64,
    ran: f64,
    waited: f64,
}

impl Pace {
    /// Whether to ask without sleeping from now on.
    fn tick(&mut self, tick: &Tick) -> bool {
        let add = |sum: &mut f64, ticks: f64, new: f64| *sum = *sum * (1.0 - 1.0 / ticks) + new;
        add(&mut self.requests, REQUEST_TICKS, tick.requests);
        add(&mut self.seconds, REQUEST_TICKS, tick.seconds);
        self.quiet = if tick.requests == 0.0 { self.quiet.saturating_add(1) } else { 0 };
        self.pause = self.pause.saturating_sub(1);
        if self.eager {
            add(&mut self.eager_seconds, TIME_TICKS, tick.seconds);
            add(&mut self.ran, TIME_TICKS, tick.scheduled.0);
            add(&mut self.waited, TIME_TICKS, tick.scheduled.1);
            // One wait in a short time says little.
            let is_known = self.eager_seconds >= TICK.as_secs_f64() * TIME_TICKS / 2.0;
            let slept = self.eager_seconds - self.ran - self.waited;
            if is_known && (self.waited > self.eager_seconds * CROWD || slept > self.eager_seconds * DISK) {
                self.pause = (2 * self.paused).clamp(PAUSE_TICKS[0], PAUSE_TICKS[1]);
                self.paused = self.pause;
            }
            self.eager_ticks = self.eager_ticks.saturating_add(1);
        } else {
            self.eager_ticks = 0;
            (self.eager_seconds, self.ran, self.waited) = (0.0, 0.0, 0.0);
        }
        if self.eager_ticks >= USEFUL_TICKS || self.is_asleep() {
            self.paused = 0;
        }
        let per_tick = |requests: f64, seconds: f64| requests / seconds * TICK.as_secs_f64();
        let begins = per_tick(tick.requests, tick.seconds) >= MANY;
        let goes_on = self.eager && per_tick(self.requests, self.seconds) >= MANY / 2.0;
        self.eager = self.pause == 0 && self.quiet < QUIET_TICKS && (begins || goes_on);
        self.eager
    }

    fn is_asleep(&self) -> bool {
        self.quiet >= ASLEEP_TICKS
    }
}

fn set_blocking(device: &OwnedFd, blocking: bool) -> nix::Result<()> {
    let mut flags = OFlag::from_bits_retain(fcntl(device, FcntlArg::F_GETFL)?);
    flags.set(OFlag::O_NONBLOCK, !blocking);
    fcntl(device, FcntlArg::F_SETFL(flags)).map(drop)
}

/// What the kernel says of an event loop.
struct Account<'a> {
    event_loop: &'a str,
    file: Option<File>,
    /// How often it may still be looked for.
    looks: u32,
}

impl Account<'_> {
    fn read(&mut self) -> Option<Scheduled> {
        if self.file.is_none() && self.looks > 0 {
            self.looks -= 1;
            self.file = schedstat_of(self.event_loop);
        }
        self.file.as_ref().and_then(scheduled)
    }
}

/// Where the kernel says how a thread of this process was scheduled; it says it anew whenever it is read.
fn schedstat_of(name: &str) -> Option<File> {
    let mut tasks = std::fs::read_dir("/proc/self/task").ok()?.flatten().map(|task| task.path());
    let task =
        tasks.find(|task| std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim_end() == name))?;
    File::open(task.join("schedstat")).ok()
}

/// How long a thread ran, and could have run and had no processor, since it began.
#[derive(Clone, Copy)]
struct Scheduled {
    ran: Duration,
    waited: Duration,
}

impl Scheduled {
    fn since(self, before: Scheduled) -> (f64, f64) {
        let (ran, waited) = (self.ran.saturating_sub(before.ran), self.waited.saturating_sub(before.waited));
        (ran.as_secs_f64(), waited.as_secs_f64())
    }
}

fn scheduled(schedstat: &File) -> Option<Scheduled> {
    let mut text = [0; 80];
    let len = schedstat.read_at(&mut text, 0).ok()?;
    let text = std::str::from_utf8(&text[..len]).ok()?;
    let mut nanoseconds = text.split_whitespace().map(|word| word.parse().map(Duration::from_nanos));
    Some(Scheduled { ran: nanoseconds.next()?.ok()?, waited: nanoseconds.next()?.ok()? })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// A tick in which the loop waited so long for a processor and slept so long, and ran for the rest.
    fn tick(requests: u32, waited: f64, slept: f64) -> Tick {
        let seconds = TICK.as_secs_f64();
        let scheduled = (seconds * (1.0 - waited - slept), seconds * waited);
        Tick { requests: requests.into(), seconds, scheduled }
    }

    fn quietly(pace: &mut Pace, requests: u32) -> bool {
        pace.tick(&tick(requests, 0.0, 0.0))
    }

    #[test]
    fn it_begins_with_many_requests_and_ends_with_them() {
        let mut pace = Pace::default();
        assert!(!quietly(&mut pace, 1), "a request now and then is worth no processor");
        assert!((0..9).all(|_| quietly(&mut pace, 2)));
        assert!(quietly(&mut pace, 1) && quietly(&mut pace, 0));
        assert!(!quietly(&mut pace, 0));
        assert!(!pace.is_asleep());
        (0..ASLEEP_TICKS).for_each(|_| assert!(!quietly(&mut pace, 0)));
        assert!(pace.is_asleep());
    }

    #[test]
    fn few_requests_do_not_keep_it_going() {
        let mut pace = Pace::default();
        assert!((0..100).all(|_| quietly(&mut pace, 2)));
        let stayed = (0..1000).take_while(|number| quietly(&mut pace, number % 2)).count();
        assert!(stayed < 50, "{stayed} ticks at half a request each");
    }

    #[test]
    fn others_and_the_disk_come_first() {
        // The kernel counts a wait when it is over, so here it comes in one of some ticks.
        for (every, waited, slept) in [(1, 0.9, 0.0), (8, 4.0, 0.0), (12, 8.0, 0.0), (1, 0.0, 0.6), (1, 0.2, 0.4)] {
            let mut pace = Pace::default();
            assert!((0..100).all(|_| quietly(&mut pace, 9)));
            let others = |number: u32| if number.is_multiple_of(every) { waited } else { 0.0 };
            let stayed = (0..1000).take_while(|number| pace.tick(&tick(9, others(*number), slept))).count();
            assert!(stayed < 100, "{stayed} ticks, waiting for {waited} of {every}, sleeping for {slept}");
            assert!((1..PAUSE_TICKS[0]).all(|_| !quietly(&mut pace, 9)));
            assert!(quietly(&mut pace, 9));
        }
        let mut pace = Pace::default();
        let now_and_then = |number: u32| if number.is_multiple_of(4) { 1.0 } else { 0.0 };
        assert!(
            (0..1000).all(|number| pace.tick(&tick(9, now_and_then(number), 0.0))),
            "a quarter of the time is no crowd"
        );
    }

    #[test]
    fn what_was_of_no_use_is_tried_less_and_less() {
        let mut pace = Pace::default();
        let mut eager_of = |ticks: u32, slept: f64| (0..ticks).filter(|_| pace.tick(&tick(9, 0.0, slept))).count();
        let (first, later) = (eager_of(1000, 0.6), eager_of(20_000, 0.6));
        assert!(first > 50 && later < 600, "{first} ticks in the first second, {later} in the next twenty");
        // It is tried again, is of use, and the next pause is short.
        assert!(eager_of(8000, 0.0) > 1500);
        eager_of(100, 0.6);
        let pause = (0..1000).take_while(|_| eager_of(1, 0.0) == 0).count();
        assert!(pause <= PAUSE_TICKS[0] as usize, "{pause}");
        // So is one after a rest.
        eager_of(5000, 0.6);
        (0..ASLEEP_TICKS).for_each(|_| assert!(!quietly(&mut pace, 0)));
        assert_eq!(pace.paused, 0);
    }

    /// The watcher starts before the session does.
    #[test]
    fn a_loop_that_begins_later_is_found() {
        let mut account = Account { event_loop: "eager-test-late", file: None, looks: LOOKS };
        assert!(account.read().is_none());
        let (named, told) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let body = move || {
            named.send(schedstat_of("eager-test-late").is_some()).expect("the test waits");
            ended.recv().ok();
        };
        let late = std::thread::Builder::new().name("eager-test-late".into()).spawn(body).expect("a thread");
        match told.recv().expect("it says so") {
            true => assert!(account.read().is_some()),
            false => eprintln!("SKIPPED: this kernel keeps no account of threads"),
        }
        drop(end);
        late.join().expect("it ends");
    }

    #[test]
    fn the_kernel_s_account_of_a_thread_goes_on() {
        let body = || {
            let Some(file) = schedstat_of("eager-test-spin") else {
                eprintln!("SKIPPED: this kernel keeps no account of threads");
                return;
            };
            let (first, begun) = (scheduled(&file).expect("two numbers"), Instant::now());
            while scheduled(&file).expect("two numbers").since(first).0 == 0.0 {
                assert!(begun.elapsed() < Duration::from_secs(60), "what it says is old");
            }
        };
        std::thread::Builder::new()
            .name("eager-test-spin".into())
            .spawn(body)
            .expect("a thread")
            .join()
            .expect("it ends");
    }

    /// This thread stands for the event loop.
    #[test]
    fn the_descriptor_blocks_again_when_requests_end() {
        let name = "eager-test-loop";
        let body = move || {
            let (device, _other_end) = nix::unistd::pipe().expect("a pipe");
            let blocks = |device: &OwnedFd| {
                let flags = OFlag::from_bits_retain(fcntl(device, FcntlArg::F_GETFL).expect("a pipe"));
                !flags.contains(OFlag::O_NONBLOCK)
            };
            let (requests, watched) = (Arc::new(Activity::default()), device.try_clone().expect("a descriptor"));
            let told = Arc::clone(&requests);
            let watcher = std::thread::spawn(move || run(&told, &watched, name));
            let (mut was_eager, begun) = (false, Instant::now());
            let alone = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) < 2;
            while !was_eager && !alone && begun.elapsed() < Duration::from_secs(60) {
                requests.happened();
                std::thread::sleep(TICK / 4);
                was_eager = !blocks(&device);
            }
            assert!(was_eager != alone, "it never began");
            let ended = Instant::now();
            while !blocks(&device) {
                assert!(ended.elapsed() < Duration::from_secs(60), "it never ended");
                std::thread::sleep(TICK);
            }
            requests.close();
            watcher.join().expect("it ends");
        };
        std::thread::Builder::new().name(name.into()).spawn(body).expect("a thread").join().expect("no failure");
    }
}
