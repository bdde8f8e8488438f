//! A software TPM for one test: swtpm on ports of its own, with its state in a directory that goes with it, and tpm2-tools
//! as the judge that shares no code with ours.
#![allow(dead_code, reason = "each test binary uses some of it")]

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub(crate) struct Swtpm {
    child: Child,
    port: u16,
    state: TempDir,
}

impl Swtpm {
    /// A new TPM that was never used.
    pub(crate) fn start() -> Swtpm {
        let state = tempfile::tempdir().unwrap();
        let (child, port) = spawn(state.path());
        Swtpm { child, port, state }
    }

    /// The machine restarts: PCRs begin anew, NV memory and seeds stay. Its ports change.
    pub(crate) fn reboot(&mut self) {
        // An orderly end, as an operating system makes one.
        self.tool("tpm2_shutdown", &["--clear"]);
        self.power_off();
        self.power_on();
    }

    /// The power fails.
    pub(crate) fn power_off(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The power comes back.
    pub(crate) fn power_on(&mut self) {
        (self.child, self.port) = spawn(self.state.path());
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The way to it.
    pub(crate) fn tcti(&self) -> String {
        format!("swtpm:host=127.0.0.1,port={}", self.port)
    }

    /// A measurement of what was started.
    pub(crate) fn extend(&self, register: u8, what: u8) {
        let digest: String = std::iter::repeat_n(format!("{what:02x}"), 32).collect();
        self.tool("tpm2_pcrextend", &[&format!("{register}:sha256={digest}")]);
    }

    /// Runs one of tpm2-tools, which has to succeed: what it printed.
    pub(crate) fn tool(&self, name: &str, args: &[&str]) -> String {
        let (ok, text) = self.try_tool(name, args);
        assert!(ok, "{name} {args:?}: {text}");
        text
    }

    /// Runs one of tpm2-tools: whether it succeeded, and what it printed.
    pub(crate) fn try_tool(&self, name: &str, args: &[&str]) -> (bool, String) {
        let output = Command::new(name)
            .args(args)
            .env("TPM2TOOLS_TCTI", self.tcti())
            .env("TSS2_LOG", "all+NONE")
            .current_dir(self.state.path())
            .output()
            .unwrap_or_else(|error| panic!("{name}: {error}; these tests need Debian's swtpm and tpm2-tools"));
        // There is no resource manager between: what a tool left in the TPM would stand in the way of the next.
        if name != "tpm2_flushcontext" && name != "tpm2_shutdown" {
            for kind in ["-t", "-l"] {
                self.try_tool("tpm2_flushcontext", &[kind]);
            }
        }
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// Runs tools one after the other that leave sessions for each other.
    pub(crate) fn script(&self, script: &str) -> String {
        self.tool("sh", &["-e", "-c", script])
    }

    /// A file of the directory that the tools run in.
    pub(crate) fn file(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.state.path().join(name)).unwrap()
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.state.path().join(name), bytes).unwrap();
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        self.power_off();
    }
}

/// Starts it on two free ports in a row: commands, and control.
fn spawn(state: &Path) -> (Child, u16) {
    // Between looking for ports and taking them nobody else of ours looks.
    let lock = std::fs::File::create(std::env::temp_dir().join("sefs-tests-swtpm.lock")).unwrap();
    lock.lock().unwrap();
    for _ in 0..20 {
        let Some(port) = two_ports() else { continue };
        // The TPM's libraries let children inherit their sockets: a swtpm that has another test's would keep it open for ever.
        let mut child = Command::new("bash")
            .args(["-c", WITHOUT_OUR_FILES, "swtpm", "socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .arg("--tpmstate")
            .arg(format!("dir={}", state.display()))
            .arg("--server")
            .arg(format!("type=tcp,bindaddr=127.0.0.1,port={port}"))
            .arg("--ctrl")
            .arg(format!("type=tcp,bindaddr=127.0.0.1,port={}", port + 1))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("bash: {error}"));
        let until = Instant::now() + Duration::from_secs(20);
        while Instant::now() < until && child.try_wait().unwrap().is_none() {
            if TcpStream::connect(("127.0.0.1", port + 1)).is_ok() && child.try_wait().unwrap().is_none() {
                return (child, port);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // Somebody else took the ports between looking and starting.
        let _ = child.kill();
        let _ = child.wait();
    }
    panic!("swtpm does not start; these tests need Debian's swtpm and tpm2-tools")
}

/// Closes what was inherited, and becomes swtpm.
const WITHOUT_OUR_FILES: &str = r#"for fd in /proc/$$/fd/*; do fd=${fd##*/}; if [ "$fd" -gt 2 ]; then eval "exec $fd>&-"; fi; done; exec swtpm "$@""#;

fn two_ports() -> Option<u16> {
    let first = TcpListener::bind(("127.0.0.1", 0)).ok()?;
    let port = first.local_addr().ok()?.port();
    TcpListener::bind(("127.0.0.1", port.checked_add(1)?)).ok()?;
    Some(port)
}
