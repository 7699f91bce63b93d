"""How busy GPUs were: shares and pauses of a run worked out by hand, from the lines that nvidia-smi writes."""

from datetime import datetime

import pytest

from knnlm.cost.gpu_share import Pause, Sample, busy_shares, computing_share, pauses, read_samples, window
from knnlm.cost.hours import Times
from knnlm.errors import KnnlmError
from knnlm.steps.gpu_share import main

# Two jobs on GPUs, the second starts while the first computes, and one on the CPU.
RUN = [
    Times("train_lm", 0, 10, 12, 1, 20, 1, 0, gpus=1),
    Times("datastore_chunk/0", 0, 18, 21, 1, 30, 1, 0, gpus=1),
    Times("plot/loss", 0, 22, 23, 1, 40, 1, 0),
]
# Kernels run from 13 to 20 and from 24 to 30, half of the time in the first.
BUSY = [Sample(moment, "0", 0.5 if moment <= 20 else 1.0) for moment in (*range(13, 21), *range(24, 31))]
IDLE = [Sample(moment, "0", 0.0) for moment in (5, 10, 11, 12, 21, 22, 23, 35)]


def test_the_window_reaches_from_the_first_job_on_a_gpu_to_the_last():
    assert window(RUN) == (10, 30)
    assert computing_share(RUN) == pytest.approx((20 - 12 + 30 - 21) / 20)
    with pytest.raises(KnnlmError, match="no job of this run has had a GPU"):
        window(RUN[2:])


def test_the_share_is_the_mean_of_the_samples_in_the_window_of_gpus_that_were_used():
    unused = [Sample(moment, "1", 0.0) for moment in range(40)]
    assert busy_shares(BUSY + IDLE + unused, 10, 30) == {"0": pytest.approx((8 * 0.5 + 7) / 21)}


def test_pauses_name_the_jobs_that_ran_meanwhile():
    found = list(pauses(IDLE + BUSY, RUN))
    assert found[0] == Pause(10, 13, ("train_lm",))
    assert Pause(20, 24, ("datastore_chunk/0", "plot/loss")) in found
    starting = [Sample(moment, "0", 1.0) for moment in (10, 17.5, 20.5, 29.5)]
    assert Pause(17.5, 20.5, ("train_lm", "+datastore_chunk/0")) in list(pauses(starting, RUN))


def test_samples_are_read_as_nvidia_smi_writes_them(tmp_path):
    path = tmp_path / "gpu.csv"
    path.write_text("2026/11/26 18:30:00.250, 0, 87\n2026/11/26 18:30:00.251, 1, 0\n2026/11/26 18:3")
    first, second = read_samples(path)
    assert first == Sample(datetime(2026, 11, 26, 18, 30, 0, 250_000).timestamp(), "0", 0.87)
    assert (second.gpu, second.busy) == ("1", 0.0)
    path.write_text("timestamp, index, utilization.gpu [%]\n")
    with pytest.raises(KnnlmError, match=r"gpu\.csv: not samples of GPUs .* `nvidia-smi"):
        read_samples(path)


def test_the_step_says_it_in_words(tmp_path, capsys):
    job = '{{"driver_started": 0, "started": {}, "began": {}, "starting_cpu_seconds": 1, "ended": {}, "threads": 1, '
    job += '"peak_memory_bytes": 0, "gpus": 1}}'
    for record in RUN[:2]:
        path = tmp_path / f"logs/{record.job}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(job.format(record.started, record.began, record.ended))
    moments = [(datetime.fromtimestamp(sample.moment), sample) for sample in BUSY]
    lines = [f"{moment:%Y/%m/%d %H:%M:%S}.000, 0, {sample.busy * 100:.0f}" for moment, sample in moments]
    (tmp_path / "gpu.csv").write_text("\n".join(lines))
    main(tmp_path / "logs", tmp_path / "gpu.csv")
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "2 jobs with GPUs, 20 s from the start of the first to the end of the last"
    assert said[2] == "GPU 0 computed: 0.73 of that time"
    assert "pause of 4.0 s at 10 s: datastore_chunk/0" in said
