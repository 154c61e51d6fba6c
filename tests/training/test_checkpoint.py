"""Checkpoints and model files: exact, whole or not at all, and clear when they are not."""

from __future__ import annotations

import functools
import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from deeplvm.training import (
    CheckpointError,
    TrainingInterrupted,
    linear,
    load_model_into,
    save_model,
)
from deeplvm.training import checkpoint as checkpoints
from deeplvm.training import checkpoint as files_of_a_run
from training_models import (
    OnEpoch,
    digits,
    digits_vae,
    gaussian_rows,
    linear_gaussian,
    quietly,
    same,
    untimed,
    weights,
)

with_everything = functools.partial(
    quietly,
    batch_size=50,
    learning_rate=0.01,
    schedule="tripling",
    kl_weight=linear(3),
    averaging=0.9,
    clip=50.0,
    patience=3,
    particles=2,
    checkpoint_every=1,
)


def change(path: Path, where: int) -> None:
    content = bytearray(path.read_bytes())
    content[where] ^= 1
    path.write_bytes(content)


class TestResume:
    @pytest.mark.parametrize("stop", [1, 3])
    @pytest.mark.parametrize("optimizer", ["adam", "adamax", torch.optim.RMSprop])
    def test_is_the_run_that_was_never_stopped(self, tmp_path, stop, optimizer):
        """R2.3c, bit for bit."""
        train, valid = digits(120, 40)
        learn = functools.partial(with_everything, valid=valid, optimizer=optimizer)
        whole = digits_vae()
        expected = learn(whole, train, epochs=5, folder=tmp_path / "whole")
        folder = tmp_path / "parts"
        learn(digits_vae(), train, epochs=stop, folder=folder)
        model = digits_vae(seed=77)  # its weights come from the checkpoint
        history = learn(model, train, epochs=5, folder=folder, resume=True)
        assert same(weights(whole), weights(model))
        assert untimed(history.epochs) == untimed(expected.epochs)
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert untimed(lines) == untimed(expected.epochs)

    def test_after_the_end_changes_nothing(self, tmp_path):
        data = {"x": gaussian_rows()}
        model, again = linear_gaussian(), linear_gaussian(seed=5)
        first = quietly(model, data, epochs=2, folder=tmp_path)
        second = quietly(again, data, epochs=2, folder=tmp_path, resume=True)
        assert first == second
        assert same(weights(model), weights(again))

    def test_without_a_checkpoint_starts(self, tmp_path):
        history = quietly(
            linear_gaussian(), {"x": gaussian_rows()}, epochs=1, folder=tmp_path, resume=True
        )
        assert len(history.epochs) == 1

    def test_a_used_folder_is_not_overwritten(self, tmp_path):
        data = {"x": gaussian_rows()}
        quietly(linear_gaussian(), data, epochs=1, folder=tmp_path)
        with pytest.raises(CheckpointError, match=r"already holds a checkpoint.*resume=True"):
            quietly(linear_gaussian(), data, epochs=1, folder=tmp_path)

    def test_needs_a_folder(self):
        with pytest.raises(CheckpointError, match="no folder to resume from"):
            quietly(linear_gaussian(), {"x": gaussian_rows()}, resume=True)

    def test_other_options_are_refused(self, tmp_path):
        data = {"x": gaussian_rows()}
        quietly(linear_gaussian(), data, epochs=1, folder=tmp_path)
        with pytest.raises(CheckpointError, match=r"a run with batch_size 64.*this one has 7"):
            quietly(linear_gaussian(), data, epochs=2, folder=tmp_path, resume=True, batch_size=7)

    def test_another_model_is_refused(self, tmp_path):
        data = digits(40, 10)[0]
        quietly(digits_vae(), data, epochs=1, folder=tmp_path)
        model = digits_vae(hidden=17)
        before = weights(model)
        with pytest.raises(
            CheckpointError, match=r"has shape \(16.*\) there and \(17.*\) in the model"
        ):
            quietly(model, data, epochs=2, folder=tmp_path, resume=True)
        assert same(before, weights(model))

    def test_metrics_after_the_checkpoint_are_cut(self, tmp_path):
        data = {"x": gaussian_rows()}
        quietly(linear_gaussian(), data, epochs=2, folder=tmp_path)
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write('{"epoch": 3, "train": {"elbo": 0')  # killed while writing
        quietly(linear_gaussian(), data, epochs=3, folder=tmp_path, resume=True)
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]

    def test_saving_is_rare_where_epochs_are_short(self, tmp_path, monkeypatch):
        saved = []
        real = checkpoints.save_checkpoint

        def slow(path, state):
            time.sleep(0.05)
            saved.append(state["epoch"])
            real(path, state)

        monkeypatch.setattr(files_of_a_run, "save_checkpoint", slow)
        quietly(linear_gaussian(), {"x": gaussian_rows(8)}, epochs=30, folder=tmp_path)
        assert saved[0] == 0
        assert saved[-1] == 30
        assert len(saved) <= 4


# One process that has imported everything forks the runs, so that five of them cost one start.
KILLS = """
import os, random, signal, sys, time
sys.path.insert(0, {tests!r})
import torch
import torch._dynamo  # which every optimiser imports: once, before the forks
torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
from training_models import gaussian_rows, linear_gaussian
from deeplvm.training import fit, linear, save_model, unfolded

def run(folder):
    child = os.fork()
    if child:
        return child
    model = linear_gaussian()
    data, valid = {{"x": gaussian_rows(100)}}, {{"x": gaussian_rows(30, seed=4)}}
    unfolded(fit)(model, data, valid=valid, epochs=12,
        folder=folder, resume=True, quiet=True, batch_size=20, averaging=0.9,
        kl_weight=linear(3), checkpoint_every=1)
    save_model(model, folder + "/model.safetensors")
    os._exit(0)

folder, moments, killed = sys.argv[1], random.Random(8), 0
began = time.monotonic()
child = run(folder + "/whole")
assert os.waitpid(child, 0)[1] == 0
length = time.monotonic() - began
for _ in range(3):
    child = run(folder + "/killed")
    time.sleep(moments.uniform(0.0, 0.5) * length)
    os.kill(child, signal.SIGKILL)
    killed += os.waitpid(child, 0)[1] == signal.SIGKILL
assert killed, "none was killed in time"
assert os.waitpid(run(folder + "/killed"), 0)[1] == 0
"""


class TestKill:
    @pytest.mark.skipif(not hasattr(os, "fork"), reason="kills and forks as POSIX does")
    def test_minus_nine_at_any_moment(self, tmp_path):
        """Killed at three moments, the run ends as the one left alone: weights and metrics."""
        code = KILLS.format(tests=str(Path(__file__).parent.parent))
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            check=True,
        )
        models, metrics = [], []
        killed, whole = (tmp_path / name / "model.safetensors" for name in ("killed", "whole"))
        assert killed.read_bytes() == whole.read_bytes()
        for folder in ("killed", "whole"):
            model = linear_gaussian(seed=3)
            load_model_into(model, tmp_path / folder / "model.safetensors")
            models.append(weights(model))
            lines = (tmp_path / folder / "metrics.jsonl").read_text().splitlines()
            metrics.append(untimed([json.loads(line) for line in lines]))
        assert same(*models)
        assert metrics[0] == metrics[1]
        assert len(metrics[0]) == 12

    @pytest.mark.parametrize("moment", ["write", "first rename", "second rename"])
    def test_while_a_checkpoint_is_written(self, tmp_path, monkeypatch, moment):
        data = {"x": gaussian_rows()}
        whole = linear_gaussian()
        quietly(whole, data, epochs=4, folder=tmp_path / "whole", checkpoint_every=1)
        folder = tmp_path / "parts"
        quietly(linear_gaussian(), data, epochs=2, folder=folder, checkpoint_every=1)
        renames = {"first rename": 0, "second rename": 1}
        calls = []
        real = os.replace

        def dies(*names):
            calls.append(names)
            if len(calls) - 1 == renames[moment]:
                raise KeyboardInterrupt
            real(*names)

        def writes_half(file):
            raise KeyboardInterrupt

        if moment == "write":
            monkeypatch.setattr(os, "fsync", writes_half)
        else:
            monkeypatch.setattr(os, "replace", dies)
        with pytest.raises(TrainingInterrupted):
            quietly(
                linear_gaussian(), data, epochs=4, folder=folder, resume=True, checkpoint_every=1
            )
        monkeypatch.undo()
        (folder / "checkpoint" / "state.safetensors.writing").write_bytes(b"half of it")
        model = linear_gaussian(seed=6)
        quietly(model, data, epochs=4, folder=folder, resume=True, checkpoint_every=1)
        assert same(weights(whole), weights(model))
        assert not list((folder / "checkpoint").glob("*.writing"))


class TestInterrupt:
    def test_keeps_the_best_and_the_checkpoint(self, tmp_path):
        seen = []
        model = linear_gaussian()

        def third(record):
            seen.append(weights(model))
            if record["epoch"] == 3:
                raise KeyboardInterrupt

        with pytest.raises(
            TrainingInterrupted, match=r"\(SIGINT\) in epoch 4; .*\(epoch 3\). All of it is saved"
        ) as caught:
            quietly(
                model,
                {"x": gaussian_rows()},
                epochs=9,
                folder=tmp_path,
                checkpoint_every=1,
                callbacks=[OnEpoch(third)],
            )
        assert caught.value.saved == caught.value.epoch == 3
        assert "\n" not in str(caught.value)
        assert same(weights(model), seen[2])
        state, warning = checkpoints.load_checkpoint(tmp_path / "checkpoint" / "state.safetensors")
        assert state["epoch"] == 3
        assert not warning


class TestDamage:
    @pytest.fixture
    def folder(self, tmp_path):
        quietly(
            linear_gaussian(),
            {"x": gaussian_rows()},
            epochs=3,
            folder=tmp_path,
            checkpoint_every=1,
        )
        return tmp_path

    @pytest.mark.parametrize("damage", ["cut", "changed", "empty", "text"])
    def test_falls_back_to_the_checkpoint_before(self, folder, damage, capsys):
        path = folder / "checkpoint" / "state.safetensors"
        damaged(path, damage)
        model, whole = linear_gaussian(seed=2), linear_gaussian()
        quietly(model, {"x": gaussian_rows()}, epochs=5, folder=folder, resume=True, quiet=False)
        warning = capsys.readouterr().err.splitlines()[0]
        assert "state.safetensors" in warning
        assert "Going on from" in warning
        quietly(whole, {"x": gaussian_rows()}, epochs=5)
        assert same(weights(model), weights(whole))

    def test_both_damaged(self, folder):
        path = folder / "checkpoint" / "state.safetensors"
        damaged(path, "cut")
        damaged(checkpoints.previous(path), "cut")
        with pytest.raises(CheckpointError, match="cut short or damaged"):
            quietly(
                linear_gaussian(), {"x": gaussian_rows()}, epochs=4, folder=folder, resume=True
            )

    def test_disk_full(self, folder, monkeypatch):
        real = Path.open

        def full(self, mode="r", *rest, **options):
            file = real(self, mode, *rest, **options)
            if "writing" in self.name:
                file.write(b"some")
                file.close()
                raise OSError(28, "No space left on device")
            return file

        monkeypatch.setattr(Path, "open", full)
        with pytest.raises(CheckpointError, match="cannot be written: No space left on device"):
            quietly(
                linear_gaussian(),
                {"x": gaussian_rows()},
                epochs=5,
                folder=folder,
                resume=True,
                checkpoint_every=1,
            )
        monkeypatch.undo()
        state, warning = checkpoints.load_checkpoint(folder / "checkpoint" / "state.safetensors")
        assert state["epoch"] == 3
        assert not warning
        assert not list((folder / "checkpoint").glob("*.writing"))

    def test_no_pickle(self, folder):
        tensors = safetensors.torch.load_file(folder / "checkpoint" / "state.safetensors")
        assert "model/p.factors.x | z.mean.weight" in tensors

    def test_what_cannot_be_saved_says_so(self, tmp_path):
        with pytest.raises(CheckpointError, match="'rates/0' is a object"):
            checkpoints.save_checkpoint(tmp_path / "state.safetensors", {"rates": [object()]})

    def test_a_tree_comes_back_as_it_was(self, tmp_path):
        tree = {
            "a": [1, 2.5, None, True, "x"],
            "numbered": {3: (torch.ones(2), {"b": torch.tensor(1)})},
            "e": [],
        }
        path = tmp_path / "state.safetensors"
        checkpoints.save_checkpoint(path, tree)
        state, _ = checkpoints.load_checkpoint(path)
        assert repr(state) == repr(tree)


def damaged(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("hello, this is not a model file\n" * 9)
    else:
        change(path, len(content) - 5)


class TestModelFile:
    def test_round_trip(self, tmp_path):
        path = tmp_path / "model.safetensors"
        one, other = digits_vae(), digits_vae(seed=2)
        save_model(one, path, {"recipe": "vae"})
        assert load_model_into(other, path) == {"recipe": "vae"}
        assert same(weights(one), weights(other))

    def test_shared_tensors_are_saved_once(self, tmp_path):
        def tied():
            first, second = nn.Linear(3, 3), nn.Linear(3, 3)
            second.weight = first.weight
            model = nn.Sequential(first, second)
            model.register_buffer("mean", torch.randn(3))
            return model

        path = tmp_path / "model.safetensors"
        one, other = tied(), tied()
        save_model(one, path)
        assert set(safetensors.torch.load_file(path)) == {"0.weight", "0.bias", "1.bias", "mean"}
        load_model_into(other, path)
        assert same(weights(one), weights(other))
        assert other[0].weight is other[1].weight

    @pytest.mark.parametrize("how", ["cut", "empty", "text"])
    def test_cut_short(self, tmp_path, how):
        path = tmp_path / "model.safetensors"
        save_model(digits_vae(), path)
        damaged(path, how)
        with pytest.raises(CheckpointError, match="cut short or damaged"):
            load_model_into(digits_vae(), path)

    def test_every_single_changed_byte_is_noticed(self, tmp_path):
        path = tmp_path / "model.safetensors"
        model = nn.Linear(2, 1)
        save_model(model, path, {"a": 1})
        content, before = path.read_bytes(), weights(model)
        for where in range(len(content)):
            path.write_bytes(content)
            change(path, where)
            try:
                load_model_into(model, path)
            except CheckpointError:
                pass
            else:  # only where the change means nothing
                assert same(before, weights(model)), where
        changed = bytearray(content)
        changed[-1] ^= 64
        path.write_bytes(changed)
        with pytest.raises(CheckpointError, match="checksum does not agree"):
            load_model_into(model, path)

    def test_newer_version(self, tmp_path, monkeypatch):
        path = tmp_path / "model.safetensors"
        monkeypatch.setattr(checkpoints, "VERSION", 2)
        save_model(digits_vae(), path)
        monkeypatch.undo()
        with pytest.raises(
            CheckpointError, match=r"format version 2, newer than the 1 .*upgrade deeplvm"
        ):
            load_model_into(digits_vae(), path)

    def test_another_kind_of_file(self, tmp_path):
        path = tmp_path / "model.safetensors"
        safetensors.torch.save_file({"weight": torch.ones(2)}, path)
        with pytest.raises(CheckpointError, match="not a deeplvm model"):
            load_model_into(digits_vae(), path)

    def test_missing_file(self, tmp_path):
        with pytest.raises(CheckpointError, match="cannot be read: No such file"):
            load_model_into(digits_vae(), tmp_path / "none.safetensors")

    def test_header_that_lies(self, tmp_path):
        path = tmp_path / "model.safetensors"
        path.write_bytes(struct.pack("<Q", 2**63) + b"{}")
        with pytest.raises(CheckpointError, match="cut short or damaged"):
            load_model_into(digits_vae(), path)

    @pytest.mark.parametrize(
        "other, message",
        [
            (lambda: digits_vae(hidden=9), r"does not fit this model.*has shape .* there"),
            (
                linear_gaussian,
                r"does not fit this model.*It lacks 'p\.factors\.x \| z\.log_scale'",
            ),
            (lambda: digits_vae().p, r"does not fit this model. It lacks"),
        ],
    )
    def test_another_model(self, tmp_path, other, message):
        path = tmp_path / "model.safetensors"
        save_model(digits_vae(), path)
        model = other()
        before = weights(model)
        with pytest.raises(CheckpointError, match=message):
            load_model_into(model, path)
        assert same(before, weights(model))

    def test_names_too_many(self, tmp_path):
        path = tmp_path / "model.safetensors"
        save_model(nn.Linear(2, 1), path)
        with pytest.raises(CheckpointError, match="It has 'bias', which the model has not"):
            load_model_into(nn.Linear(2, 1, bias=False), path)
