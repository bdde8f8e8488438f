//! Lists of mount options, as `-o` and fstab(5) have them.
//!
//! mount(8) hands a helper everything that stands in the list: options for the kernel, options for mount(8) itself and
//! for init systems, and the filesystem's own. The first are kept as flags, the second recognised and dropped, and the
//! third left for the tool, which says what it does not know.

use crate::key_source::KeyArgs;
use crate::report::Failure;

/// A parsed list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// How the volume is opened; the caller starts from its command line's.
    pub key: KeyArgs,
    /// `ro` was the last of `ro` and `rw`.
    pub read_only: bool,
    /// Flags that the kernel enforces, in the list's order of decision. `None`: not named.
    pub kernel: KernelFlags,
    /// The filesystem's own options that nobody took yet.
    rest: Vec<(String, Option<String>)>,
}

/// Flags of mount(2). For each, the last word in the list counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelFlags {
    /// `suid`, `nosuid`.
    pub suid: Option<bool>,
    /// `dev`, `nodev`.
    pub dev: Option<bool>,
    /// `exec`, `noexec`.
    pub exec: Option<bool>,
    /// `sync`, `async`.
    pub sync: Option<bool>,
    /// `dirsync`.
    pub dirsync: Option<bool>,
    /// `diratime`, `nodiratime`.
    pub diratime: Option<bool>,
    /// `lazytime`, `nolazytime`.
    pub lazytime: Option<bool>,
    /// `atime`, `noatime`, `relatime`, `strictatime`.
    pub atime: Option<Atime>,
}

/// When access times change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Atime {
    /// The kernel's default: `atime`, `norelatime`, `nostrictatime`.
    Default,
    /// `noatime`.
    Never,
    /// `relatime`.
    Relative,
    /// `strictatime`.
    Always,
}

impl MountOptions {
    /// Reads the lists in order; `key` holds what the command line's own options said.
    pub fn parse<S: AsRef<str>>(lists: &[S], key: KeyArgs) -> Result<MountOptions, Failure> {
        let mut options = MountOptions { key, ..MountOptions::default() };
        for list in lists {
            for item in split(list.as_ref()) {
                options.take(&item)?;
            }
        }
        Ok(options)
    }

    /// What `-o` adds to a tool that takes options about keys only.
    pub fn key_args<S: AsRef<str>>(lists: &[S], key: &KeyArgs) -> Result<KeyArgs, Failure> {
        let options = MountOptions::parse(lists, key.clone())?;
        let key = options.key.clone();
        options.finish().map(|()| key)
    }

    /// Takes an own option without a value, such as `allow_other`. `true` if it was there.
    pub fn take_flag(&mut self, name: &str) -> Result<bool, Failure> {
        match self.take_last(name) {
            None => Ok(false),
            Some(None) => Ok(true),
            Some(Some(_)) => Err(Failure::usage(format_args!("option {name}"), "it takes no value")),
        }
    }

    /// Takes an own option with a value, such as `commit=5`. Of several the last counts.
    pub fn take_value(&mut self, name: &str) -> Result<Option<String>, Failure> {
        match self.take_last(name) {
            None => Ok(None),
            Some(Some(value)) if !value.is_empty() => Ok(Some(value)),
            Some(_) => {
                Err(Failure::usage(format_args!("option {name}"), "it needs a value")
                    .way_out(format!("write {name}=…")))
            }
        }
    }

    /// Refuses what nobody took.
    pub fn finish(self) -> Result<(), Failure> {
        match self.rest.first() {
            None => Ok(()),
            Some((name, _)) => {
                Err(Failure::usage(format_args!("option {name}"), "it is not known").way_out("leave it away"))
            }
        }
    }

    fn take(&mut self, item: &str) -> Result<(), Failure> {
        let (name, value) = match item.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (item, None),
        };
        if name == "remount" {
            return Err(Failure::usage("option remount", "a SEFS mount cannot change its options")
                .way_out("unmount and mount again"));
        }
        let known = is_for_others(name)
            || value.is_none() && (self.take_access(name) || self.kernel.take(name))
            || self.key.take_option(name, value)?;
        if !known {
            self.rest.push((name.to_string(), value.map(str::to_string)));
        }
        Ok(())
    }

    fn take_access(&mut self, name: &str) -> bool {
        match name {
            "ro" => self.read_only = true,
            "rw" => self.read_only = false,
            _ => return false,
        }
        true
    }

    fn take_last(&mut self, name: &str) -> Option<Option<String>> {
        let last = self.rest.iter().rposition(|(other, _)| other == name)?;
        let value = self.rest.swap_remove(last).1;
        self.rest.retain(|(other, _)| other != name);
        Some(value)
    }
}

impl KernelFlags {
    fn take(&mut self, name: &str) -> bool {
        match name {
            "suid" | "nosuid" => self.suid = Some(name == "suid"),
            "dev" | "nodev" => self.dev = Some(name == "dev"),
            "exec" | "noexec" => self.exec = Some(name == "exec"),
            "sync" | "async" => self.sync = Some(name == "sync"),
            "dirsync" => self.dirsync = Some(true),
            "diratime" | "nodiratime" => self.diratime = Some(name == "diratime"),
            "lazytime" | "nolazytime" => self.lazytime = Some(name == "lazytime"),
            "atime" | "norelatime" | "nostrictatime" => self.atime = Some(Atime::Default),
            "noatime" => self.atime = Some(Atime::Never),
            "relatime" => self.atime = Some(Atime::Relative),
            "strictatime" => self.atime = Some(Atime::Always),
            "defaults" => {}
            // What an ordinary user may mount comes without these three unless the list says otherwise later.
            "user" | "users" => (self.suid, self.dev, self.exec) = (Some(false), Some(false), Some(false)),
            "owner" | "group" => (self.suid, self.dev) = (Some(false), Some(false)),
            _ => return false,
        }
        true
    }
}

/// Options for mount(8), for init systems, or of no effect on this kind of filesystem.
fn is_for_others(name: &str) -> bool {
    const NAMES: &[&str] = &[
        "auto",
        "noauto",
        "nouser",
        "nousers",
        "noowner",
        "nogroup",
        "nofail",
        "_netdev",
        "comment",
        "loop",
        "uhelper",
        "helper",
        "silent",
        "loud",
        "quiet",
        "mand",
        "nomand",
        "iversion",
        "noiversion",
        "nodefaults",
        "_rnetdev",
    ];
    NAMES.contains(&name) || name.starts_with("x-") || name.starts_with("X-")
}

/// Splits at commas. A backslash takes the next character as it is, so that a path may hold a comma.
pub(crate) fn split(list: &str) -> Vec<String> {
    let (mut items, mut item) = (Vec::new(), String::new());
    let mut chars = list.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => item.extend(chars.next()),
            ',' => items.push(std::mem::take(&mut item)),
            c => item.push(c),
        }
    }
    items.push(item);
    items.retain(|item| !item.is_empty());
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(lists: &[&str]) -> MountOptions {
        MountOptions::parse(lists, KeyArgs::default()).unwrap()
    }

    fn refused(list: &str) -> String {
        let parsed = MountOptions::parse(&[list], KeyArgs::default()).and_then(MountOptions::finish);
        parsed.unwrap_err().to_string()
    }

    #[test]
    fn an_fstab_line_leaves_nothing_over() {
        let list =
            "defaults,noauto,user,exec,nofail,_netdev,x-systemd.device-timeout=5,X-mount.mkdir,comment=a b,ro,noatime";
        let options = parse(&[list]);
        assert!(options.read_only);
        assert_eq!(options.kernel.exec, Some(true));
        assert_eq!(options.kernel.suid, Some(false));
        assert_eq!(options.kernel.atime, Some(Atime::Never));
        options.finish().unwrap();
    }

    #[test]
    fn the_last_word_counts() {
        let options = parse(&["ro,nosuid,noatime", "rw,suid,relatime"]);
        assert!(!options.read_only);
        assert_eq!(options.kernel.suid, Some(true));
        assert_eq!(options.kernel.atime, Some(Atime::Relative));
        assert_eq!(options.kernel.dev, None);
    }

    #[test]
    fn keys_and_pins() {
        let options = parse(&["key-file=/a\\,b,volume-id=0f8e4a527c1d4b399a605d3c2b1e8f74,anchor=file:/x=y"]);
        assert_eq!(options.key.key_file.as_deref(), Some("/a,b".as_ref()));
        assert_eq!(options.key.anchor.as_ref().unwrap().to_string(), "file:/x=y");
        assert!(refused("key-file").contains("needs a value"));
        assert!(refused("key-file=/a,key-file=/b").contains("given twice"));
    }

    #[test]
    fn own_options_are_taken_or_refused() {
        let mut options = parse(&["allow_other,commit=1,commit=5,,max_read="]);
        assert_eq!(options.take_flag("allow_other"), Ok(true));
        assert_eq!(options.take_flag("allow_root"), Ok(false));
        assert_eq!(options.take_value("commit"), Ok(Some("5".into())));
        assert!(options.take_value("max_read").is_err());
        options.finish().unwrap();
        assert_eq!(refused("nosuch=1"), "option nosuch: it is not known; leave it away");
        assert!(refused("ro=1").contains("not known"));
        assert!(refused("remount,ro").contains("unmount and mount again"));
    }
}
