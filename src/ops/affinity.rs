//! The cores that this process may use.
#![cfg_attr(
    target_os = "linux",
    expect(unsafe_code, reason = "a call of the system that no safe library here has")
)]

use std::io;

/// Has this thread, and those that it starts from here on, run on `cores` alone.
///
/// # Errors
/// Where the system does not know such a call, or none of the cores is this process's to use.
#[cfg(target_os = "linux")]
pub fn pin(cores: &[usize]) -> io::Result<()> {
    // SAFETY: a set of processors is plain bits, of which all zero is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for &core in cores.iter().filter(|&&core| core < libc::CPU_SETSIZE as usize) {
        // SAFETY: the set is as large as `CPU_SETSIZE` says, and the core is below it.
        unsafe { libc::CPU_SET(core, &mut set) };
    }
    // SAFETY: the call reads a set of the size that it is told; 0 names this thread.
    let failed = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has this thread, and those that it starts from here on, run on `cores` alone.
///
/// # Errors
/// Always: the system does not know such a call.
#[cfg(not(target_os = "linux"))]
pub fn pin(_cores: &[usize]) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    fn allowed() -> String {
        let text = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
        line.trim().to_owned()
    }

    #[test]
    fn a_thread_is_held_to_the_cores_that_it_is_given() {
        // In a thread of its own, so that the other tests keep theirs.
        std::thread::spawn(|| {
            let first: usize = allowed().split([',', '-']).next().unwrap().parse().unwrap();
            pin(&[first]).unwrap();
            assert_eq!(allowed(), first.to_string());
            assert!(pin(&[]).is_err(), "no core at all");
        })
        .join()
        .unwrap();
    }
}
