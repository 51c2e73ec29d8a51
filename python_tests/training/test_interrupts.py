from __future__ import annotations

import os
import signal
import threading

import pytest

from d2v_fast.errors import Interrupted
from d2v_fast.training.interrupts import StopSignals
from d2v_fast.training.trainer import Data2VecTrainer

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_signal_ends_the_run_after_a_checkpoint(make_config, make_data, tmp_path, signum):
    trainer = Data2VecTrainer(make_config("vision"), data=make_data("vision"), out=tmp_path / "run")
    step = trainer.loop.step

    def second_step(n, *arguments):
        step(n, *arguments)
        if n == 1:
            os.kill(os.getpid(), signum)

    trainer.loop.step = second_step
    before = [signal.getsignal(other) for other in SIGNALS]
    with pytest.raises(Interrupted, match="stopped after step 2 of 8; run the same command again to continue") as error:
        trainer.fit()
    assert error.value.signum == signum
    assert (tmp_path / "run/checkpoints/step_00000002").is_dir()
    assert [signal.getsignal(other) for other in SIGNALS] == before


@pytest.mark.parametrize("signum", [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
@pytest.mark.parametrize("own", [signal.SIG_IGN, lambda signum, frame: None], ids=["ignored", "handled"])
def test_what_the_program_ignores_or_handles_itself_is_left_alone(signum, own):
    before = signal.signal(signum, own)
    try:
        with StopSignals() as stop:
            assert signal.getsignal(signum) is own or signal.getsignal(signum) == own
            os.kill(os.getpid(), signum)
        assert stop.received is None
    finally:
        signal.signal(signum, before)


def test_a_second_ctrl_c_interrupts_at_once():
    with StopSignals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_outside_of_the_main_thread_nothing_changes():
    seen = []

    def body():
        with StopSignals() as stop:
            seen.append(stop.received)

    before = [signal.getsignal(other) for other in SIGNALS]
    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [None]
    assert [signal.getsignal(other) for other in SIGNALS] == before
