//! Batches off the critical path: the next one is made on another thread while a step runs.

use std::ops::Range;
use std::sync::mpsc::sync_channel;
use std::thread;

use anyhow::{Result, anyhow};

/// Calls `work` with a function that gives `make(i)` for each `i` of `steps`, in order. While `work` is busy with one,
/// the next is made on another thread, and then waits: there are never more than two. `make` has to be a function of
/// `i`, so that it makes no difference when and where it runs. An error of `make` comes out of the call that its value
/// was for; asking beyond the end is an error.
///
/// When `work` returns, early or not, what is being made is finished and dropped, and nothing more is begun.
pub(super) fn ahead<T: Send, R>(
    steps: Range<usize>,
    make: impl Fn(usize) -> Result<T> + Sync,
    work: impl FnOnce(&mut dyn FnMut() -> Result<T>) -> R,
) -> R {
    thread::scope(|scope| {
        // Without a place to wait in: a value is handed over only when it is asked for.
        let (give, take) = sync_channel(0);
        let make = &make;
        scope.spawn(move || {
            for step in steps {
                let made = make(step);
                let failed = made.is_err();
                if give.send(made).is_err() || failed {
                    return;
                }
            }
        });
        let mut next = || take.recv().unwrap_or_else(|_| Err(anyhow!("there is no further batch")));
        let done = work(&mut next);
        // The other thread may be waiting to hand a value over.
        drop(take);
        done
    })
}

/// As [`ahead`], each value made when it is asked for, on the calling thread.
pub(super) fn in_turn<T, R>(
    mut steps: Range<usize>,
    make: impl Fn(usize) -> Result<T>,
    work: impl FnOnce(&mut dyn FnMut() -> Result<T>) -> R,
) -> R {
    work(&mut || steps.next().map_or_else(|| Err(anyhow!("there is no further batch")), &make))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use anyhow::ensure;

    use super::*;

    fn all(next: &mut dyn FnMut() -> Result<usize>, count: usize) -> Vec<usize> {
        (0..count).map(|_| next().unwrap()).collect()
    }

    #[test]
    fn values_come_in_order_and_end() {
        let square = |i: usize| Ok(i * i);
        let expected: Vec<usize> = (3..50).map(|i| i * i).collect();
        assert_eq!(ahead(3..50, square, |next| all(next, 47)), expected);
        assert_eq!(in_turn(3..50, square, |next| all(next, 47)), expected);
        let beyond = |next: &mut dyn FnMut() -> Result<usize>| [next().is_ok(), next().is_ok()];
        assert_eq!(ahead(0..1, square, beyond), [true, false]);
        assert_eq!(in_turn(0..1, square, beyond), [true, false]);
    }

    #[test]
    fn one_is_made_ahead_and_no_more() {
        let made = AtomicUsize::new(0);
        let make = |i| {
            made.fetch_add(1, Ordering::SeqCst);
            Ok(i)
        };
        ahead(0..100, make, |next| {
            assert_eq!(next().unwrap(), 0);
            thread::sleep(Duration::from_millis(50));
            assert_eq!(made.load(Ordering::SeqCst), 2, "the next one waits");
        });
        assert_eq!(made.load(Ordering::SeqCst), 2, "nothing is begun after the end");
    }

    #[test]
    fn an_error_comes_where_its_value_would() {
        let make = |i| {
            ensure!(i != 2, "no slice {i}");
            Ok(i)
        };
        ahead(0..5, make, |next| {
            assert_eq!(all(next, 2), [0, 1]);
            assert_eq!(next().unwrap_err().to_string(), "no slice 2");
            assert!(next().is_err(), "it ends there");
        });
    }

    #[test]
    #[should_panic(expected = "a scoped thread panicked")]
    fn a_panic_of_the_other_thread_is_no_hang() {
        ahead(
            0..5,
            |i| if i == 1 { panic!("broken") } else { Ok(i) },
            |next| {
                assert_eq!(next().unwrap(), 0);
                assert!(next().is_err());
            },
        );
    }
}
