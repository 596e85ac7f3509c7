// Normalizes, scales and shifts by the running statistics, adds the residual, applies the activation; saves what the frozen
// backward needs.
// A workgroup owns one segment of `tile` columns. Assumes nothing; may run with y over x.
import package::common::bindings::load_running;
import package::common::normalization::{normalization_of, normalize_segment};
import package::common::statistics::{Statistics, inv_std_of, save};
import package::common::work::{Work, is_writer};
import package::table::{RUNNING_MEAN, RUNNING_REMAINDER, RUNNING_VARIANCE};

fn kernel(work: Work) {
    let statistics = Statistics(
        load_running(work, RUNNING_MEAN),
        load_running(work, RUNNING_REMAINDER),
        load_running(work, RUNNING_VARIANCE),
    );
    let inv_std = inv_std_of(statistics.variance);
    if (is_writer(work)) {
        save(work, statistics, inv_std);
    }
    normalize_segment(work, normalization_of(work, statistics, inv_std));
}
