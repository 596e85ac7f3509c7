// Training forward in one dispatch: takes the statistics of a column, then goes over it again, which a cache may hold.
// A workgroup owns `tile` columns whole. Assumes nothing about the data. May run with y over x.
import package::common::normalization::{normalization_of, normalize_segment};
import package::common::running::update_running;
import package::common::statistics::{inv_std_of, save, whole_statistics};
import package::common::work::{Work, is_writer};

fn kernel(work: Work) {
    let statistics = whole_statistics(work);
    let inv_std = inv_std_of(statistics.variance);
    if (is_writer(work)) {
        save(work, statistics, inv_std);
        update_running(work, statistics);
    }
    normalize_segment(work, normalization_of(work, statistics, inv_std));
}
