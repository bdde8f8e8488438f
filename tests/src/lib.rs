//! What the campaigns share: a model of POSIX, a backend that remembers, a host that fails, a ledger of nonces.
//!
//! ```text
//! campaign ─► attack, explore ─► image, simulator, loss, shrink
//! tests/*.rs ─► history ─► stage ─► op, walk ─► model, tree ─► content
//!           ├─► play ──────► world ─► ledger
//!           ├─► packed ──► world
//!           └─► vault, faulty, thin, interposed ─► recorder ─► disk; crew, seed, watchdog
//! ```
pub mod attack;
pub mod campaign;
pub mod content;
pub mod crew;
pub mod disk;
pub mod faulty;
pub mod history;
pub mod image;
pub mod interposed;
pub mod ledger;
pub mod loss;
pub mod meanwhile;
pub mod model;
pub mod op;
pub mod packed;
pub mod play;
pub mod recorder;
pub mod seed;
pub mod shrink;
pub mod simulator;
pub mod stage;
pub mod thin;
pub mod tree;
pub mod vault;
pub mod walk;
pub mod watchdog;
pub mod world;
