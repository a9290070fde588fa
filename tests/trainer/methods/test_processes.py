"""The same command in one process and in several, with and without accelerate."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file

from service.contract.policy import load_policy
from trainer.methods import names
from trainer.methods.models import fresh

CONFIGURATIONS = Path(__file__).parents[3] / "deploy" / "accelerate"
PARITY_TOLERANCE = {"kto": 1e-4, "simpo": 1e-4}  # largest difference of a weight; the gradient's mean is taken in
_USUAL_TOLERANCE = 1e-5  # another order, and Adam magnifies it where gradients are as small as theirs
LEAST_MOVED = 1e-3  # of a weight, in training
ONE = ["-m", "trainer"]
TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "trainer"]
LAUNCHED = ["-m", "accelerate.commands.launch", "--config_file", str(CONFIGURATIONS / "one-cpu.yaml"), "-m", "trainer"]


@pytest.mark.parametrize("name", ["one-cpu", "one-gpu", "fsdp2", "deepspeed"])
def test_accelerate_reads_every_configuration(name):
    config = load_config_from_file(str(CONFIGURATIONS / f"{name}.yaml"))  # refuses keys that it does not know

    assert config.num_processes >= 1
    assert config.use_cpu == (name == "one-cpu")


@pytest.fixture
def started(base, pairs, tmp_path):
    """Runs the command as a process of its own; returns what it published and what it said."""
    shutil.copytree(base, tmp_path / "base")

    def start(launcher, name, *options):
        say = ["--pairs", str(pairs), "--policy", str(tmp_path / "base"), "--version", name, "--json"]
        say += ["--output", str(tmp_path / name), "--work", str(tmp_path / f"{name}-work"), *options]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.getcwd()}
        command = [sys.executable, *launcher, "preferences", *say]
        done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment)
        assert done.returncode == 0, done.stderr
        return load_policy(tmp_path / name), done.stdout

    return start


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("method", names())
def test_two_processes_end_as_one(started, method):
    options = ["--method", method, "--batch-size", "4", "--lora-rank", "4", "--learning-rate", "5e-3"]

    alone, said = started(ONE, "alone", *options)
    together, said_together = started(TWO, "together", *options)

    for ours, theirs in zip(fresh(alone).parameters(), fresh(together).parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=PARITY_TOLERANCE.get(method, _USUAL_TOLERANCE))
    moved = [weight for name, weight in fresh(alone).named_parameters() if "lora_B" in name]
    assert min(weight.abs().max().item() for weight in moved) > LEAST_MOVED
    assert json.loads(said_together)["loss"] == pytest.approx(json.loads(said)["loss"], abs=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_accelerate_launch_runs_the_same_command(started):
    policy, said = started(LAUNCHED, "launched", "--batch-size", "16", "--epochs", "1", "--lora-rank", "4")

    assert policy.lineage == "base"
    assert json.loads(said)["step"] == 1
