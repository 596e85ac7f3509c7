// Normalizes, scales and shifts by the statistics of the batch, adds the residual, applies the activation:
//   y = act((x - mean) / sqrt(var + eps) * gamma + beta + residual)
// the second of two dispatches.
// A workgroup owns one segment of `tile` columns. Each merges the partial moments of its columns again; the first split saves
// the statistics and updates the running statistics. Assumes that `moments` ran before. May run with y over x.
import package::common::normalization::{normalization_of, normalize_segment};
import package::common::running::update_running;
import package::common::statistics::{inv_std_of, merged_statistics, save};
import package::common::work::{Work, is_writer};

fn kernel(work: Work) {
    let statistics = merged_statistics(work);
    let inv_std = inv_std_of(statistics.variance);
    if (is_writer(work)) {
        save(work, statistics, inv_std);
        update_running(work, statistics);
    }
    normalize_segment(work, normalization_of(work, statistics, inv_std));
}
