// Merges the partial moments of each column into the batch statistics, and those into the running statistics.
// A workgroup owns `tile` columns whole; one invocation of each writes. Assumes that `moments` ran before.
import package::common::running::update_running;
import package::common::statistics::{inv_std_of, merged_statistics, save};
import package::common::work::{Work, is_writer};

fn kernel(work: Work) {
    let statistics = merged_statistics(work);
    if (is_writer(work)) {
        save(work, statistics, inv_std_of(statistics.variance));
        update_running(work, statistics);
    }
}
