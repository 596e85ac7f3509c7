// Computes the statistics of each column, for the running statistics or the caller, in one dispatch.
// A workgroup owns `tile` columns whole. Assumes nothing about the data.
import package::common::running::update_running;
import package::common::statistics::{inv_std_of, save, whole_statistics};
import package::common::work::{Work, is_writer};

fn kernel(work: Work) {
    let statistics = whole_statistics(work);
    if (is_writer(work)) {
        save(work, statistics, inv_std_of(statistics.variance));
        update_running(work, statistics);
    }
}
