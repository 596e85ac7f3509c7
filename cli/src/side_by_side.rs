//! Work on several adapters at the same time, with results in their order.

use crate::AnyError;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

/// Says that what goes on elsewhere has no use any more.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Does `work` for all items at the same time, except that those that `share` are done one after the other. This thread gives
/// `each` the results in the order of the items, as soon as there are those of all items before.
///
/// `work` is told where it can see that it should come to an end, since its result is not wanted any more.
///
/// # Errors
/// The first of `work`, or of `each`.
pub fn side_by_side<T: Sync, R: Send>(
    items: &[T],
    share: impl Fn(&T) -> bool,
    work: impl Fn(&T, &AtomicBool) -> Result<R, AnyError> + Sync,
    mut each: impl FnMut(R) -> Result<(), AnyError>,
) -> Result<(), AnyError> {
    let (in_turn, alone): (Vec<usize>, Vec<usize>) = (0..items.len()).partition(|&i| share(&items[i]));
    let lanes = alone.into_iter().map(|i| vec![i]).chain([in_turn]);
    let (stop, work) = (AtomicBool::new(false), &work);
    let (sender, results) = mpsc::channel();
    std::thread::scope(|scope| {
        let stop = Stop(&stop);
        let stopped = stop.0;
        for lane in lanes {
            let sender = sender.clone();
            scope.spawn(move || {
                for i in lane.into_iter().take_while(|_| !stopped.load(Ordering::Relaxed)) {
                    let result = catch_unwind(AssertUnwindSafe(|| work(&items[i], stopped)));
                    // Nobody receives it where an error ended the whole.
                    let _ = sender.send((i, result));
                }
            });
        }
        drop(sender);
        let (mut early, mut next) = (BTreeMap::new(), 0);
        for (i, result) in results {
            early.insert(i, result.unwrap_or_else(|cause| resume_unwind(cause))?);
            while let Some(result) = early.remove(&next) {
                next += 1;
                each(result)?;
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    fn wait_for(condition: impl Fn() -> bool) {
        for _ in 0..10_000 {
            if condition() {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("ten seconds passed");
    }

    #[test]
    fn results_come_in_order_whoever_is_done_first() {
        let done = AtomicUsize::new(0);
        let mut given = Vec::new();
        let work = |&i: &usize, _: &AtomicBool| {
            // The last one is done first: so all are at work at the same time.
            wait_for(|| done.load(Ordering::SeqCst) == 3 - i);
            done.fetch_add(1, Ordering::SeqCst);
            Ok(i)
        };
        let all = side_by_side(
            &[0, 1, 2, 3],
            |_| false,
            work,
            |i| {
                given.push(i);
                Ok(())
            },
        );
        all.unwrap();
        assert_eq!(given, [0, 1, 2, 3]);
    }

    #[test]
    fn those_that_share_are_never_at_work_at_the_same_time() {
        let (at_work, order) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let work = |&i: &usize, _: &AtomicBool| {
            assert_eq!(at_work.fetch_add(1, Ordering::SeqCst), 0);
            std::thread::sleep(Duration::from_millis(5));
            at_work.fetch_sub(1, Ordering::SeqCst);
            order.lock().unwrap().push(i);
            Ok(())
        };
        side_by_side(&[0, 1, 2, 3], |_| true, work, Ok).unwrap();
        assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3]);
    }

    #[test]
    fn an_error_ends_the_others() {
        let work = |&i: &usize, stopped: &AtomicBool| match i {
            0 => Err("the first".into()),
            _ => {
                wait_for(|| stopped.load(Ordering::Relaxed));
                Ok(i)
            }
        };
        let error = side_by_side(&[0, 1, 2], |_| false, work, |i| panic!("{i}")).unwrap_err();
        assert_eq!(error.to_string(), "the first");
        let error = side_by_side(&[0, 1], |_| true, work, |i| panic!("{i}")).unwrap_err();
        assert_eq!(error.to_string(), "the first");
    }

    #[test]
    fn a_panic_ends_the_others_and_goes_on() {
        let work = |&i: &usize, stopped: &AtomicBool| {
            if i == 0 {
                resume_unwind(Box::new("a cause"));
            }
            wait_for(|| stopped.load(Ordering::Relaxed));
            Ok(())
        };
        let all = catch_unwind(AssertUnwindSafe(|| side_by_side(&[0, 1], |_| false, work, Ok)));
        assert_eq!(*all.unwrap_err().downcast::<&str>().unwrap(), "a cause");
    }
}
