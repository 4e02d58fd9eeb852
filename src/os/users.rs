//! Users and groups by name and by number, from all that the system knows them by (getpwnam_r(3), nsswitch.conf(5)): `/etc/passwd`
//! and `/etc/group`, LDAP, systemd's dynamic users.
//!
//! With a C library that is linked statically, glibc finds the entries of the files, and those of modules that were built for the
//! same version of glibc.

use std::io;

use nix::errno::Errno;
use nix::unistd::{Gid, Group, Uid, User};

/// The number of a user; `None` where there is no such user.
///
/// # Errors
/// Where the system cannot look, for example since a directory server does not answer.
pub fn user(name: &str) -> io::Result<Option<u32>> {
    found(User::from_name(name)).map(|user| user.map(|user| user.uid.as_raw()))
}

/// The number of a group: see [`user`].
///
/// # Errors
/// As [`user`].
pub fn group(name: &str) -> io::Result<Option<u32>> {
    found(Group::from_name(name)).map(|group| group.map(|group| group.gid.as_raw()))
}

/// The name of a user, if the system has one.
pub fn user_name(number: u32) -> Option<String> {
    User::from_uid(Uid::from_raw(number)).ok()?.map(|user| user.name)
}

/// The name of a group, if the system has one.
pub fn group_name(number: u32) -> Option<String> {
    Group::from_gid(Gid::from_raw(number)).ok()?.map(|group| group.name)
}

/// Tells an entry that does not exist from a look-up that failed. getpwnam_r(3) lists these four errors for "not found".
fn found<T>(entry: nix::Result<Option<T>>) -> io::Result<Option<T>> {
    match entry {
        Err(Errno::ENOENT | Errno::ESRCH | Errno::EBADF | Errno::EPERM) => Ok(None),
        entry => Ok(entry?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_groups_are_found_by_name_and_by_number() {
        assert_eq!((user("root").unwrap(), group("root").unwrap()), (Some(0), Some(0)));
        assert_eq!((user_name(0).as_deref(), group_name(0).as_deref()), (Some("root"), Some("root")));
        assert_eq!((user("no-such-user").unwrap(), group("no-such-group").unwrap()), (None, None));
        assert_eq!((user_name(3_999_999_999), group_name(3_999_999_999)), (None, None));
        assert_eq!(user("a\0b").unwrap_or(None), None);
    }
}
