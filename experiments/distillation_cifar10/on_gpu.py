r"""The study on one GPU that several processes share, with whole epochs; it ends in time.

Usage: python -m experiments.distillation_cifar10.on_gpu --root cifar10.tar.xz --teacher DIR \
           --out found --minutes 8
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import queue
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

import thinet
from experiments.cifar import Data, Images, noise, parsed, split
from experiments.distillation_cifar10.arms import FIVE, THREE, arms
from experiments.distillation_cifar10.run import (
    GPU,
    PEERS,
    RECIPE,
    STUDENT,
    TINY,
    Study,
    Task,
    make_parser,
    teacher_and_data,
)
from experiments.on_gpu.images import READY, unpack_into

Named = tuple[Task, str]


def work(options: argparse.Namespace) -> Iterator[Named]:
    """All rows, the most important first: an early end loses the least."""
    beta, slim = options.beta, options.pruned_beta
    for seed in options.seeds:
        yield from ((Task("students", STUDENT, name, seed, beta), name) for name in FIVE)
        yield from ((Task("pruned", RECIPE, name, seed, slim), name) for name in THREE)
    for seed in options.seeds:
        for name in ("CE", "KD", "KD + CC"):
            yield from ((Task("peers", network, name, seed, slim), name) for network in PEERS)
    others = [name for name in arms(beta) if name not in FIVE]
    for seed in options.seeds:
        yield from ((Task("kernels", STUDENT, name, seed, beta), name) for name in others)


def labour(options: argparse.Namespace, teacher: nn.Module, data: Data, tasks: Any) -> None:
    """Take tasks until there are none."""
    torch.set_num_threads(1)
    study = Study(options, teacher.to(memory_format=torch.channels_last), data)
    while True:
        try:
            task, name = tasks.get(timeout=5)
        except queue.Empty:
            return
        began = time.monotonic()
        try:
            study.add(options.out / "results.csv", task, name)
        except Exception as error:  # the others go on
            print(f"{task}: {type(error).__name__}: {error}", flush=True)
        print(f"{time.monotonic() - began:.1f} s for {task}", flush=True)


def read(options: argparse.Namespace) -> Data:
    """The images, decoded once; the processes that are forked share them."""
    if options.smoke:
        return noise(64)
    options.work.mkdir(parents=True, exist_ok=True)
    unpack_into(options.root, options.work)
    parts = torch.load(options.work / READY, weights_only=True)
    return split(Images(*parts["train"]), Images(*parts["test"]))


def main(words: Sequence[str] | None = None) -> None:
    """Fork processes that share the GPU, and end them in time."""
    began = time.monotonic()
    parser = make_parser(__doc__, GPU)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--processes", type=int, default=6)
    parser.set_defaults(epochs=8, images=45_000, batch=128, gpu=True)
    options = parsed(parser, words, **TINY, gpu=False, processes=2)
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # asking must not begin CUDA before the fork
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    data = read(options)
    teacher = teacher_and_data(options)[0] if options.smoke else thinet.load(options.teacher)
    print(f"images after {time.monotonic() - began:.0f} s", flush=True)
    context = multiprocessing.get_context("fork")
    tasks = context.Queue()
    for one in work(options):
        tasks.put(one)
    crew = [
        context.Process(target=labour, args=(options, teacher, data, tasks))
        for _ in range(options.processes)
    ]
    for process in crew:
        process.start()
    for process in crew:
        process.join(max(0.0, began + 60 * options.minutes - time.monotonic()))
    for process in crew:
        process.kill()
    tasks.cancel_join_thread()
    print(f"ended after {time.monotonic() - began:.0f} s", flush=True)
    os._exit(0)  # loaders of what was killed


if __name__ == "__main__":
    main()
