"""The process of one stage: it loads its layers, and runs the steps that its slot orders."""

from __future__ import annotations

import logging
import os
import queue
import socket
import sys
import threading
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import torch

from ktqueue.errors import ConfigurationError
from ktqueue.models import ModelSpec
from worker.engines.causal.cache import Size
from worker.engines.causal.fitting import Fitting
from worker.engines.causal.flight import Fetching
from worker.engines.causal.pipeline.cutting import Cutter
from worker.engines.causal.pipeline.links import Arrival, Ends, Links, link
from worker.engines.causal.pipeline.messages import Order, landed_message
from worker.engines.causal.pipeline.meter import Meter, Stopwatch
from worker.engines.causal.pipeline.weighing import weigh
from worker.engines.causal.pipeline.wire import Channel
from worker.engines.causal.stage import Stage
from worker.engines.causal.upload import upload
from worker.engines.device import choose_device, stay_on, use_threads
from worker.engines.loading import LARGEST_SANE_CONTEXT, context_of, ends_of, quietly

logger = logging.getLogger(__name__)


def main(descriptor: int) -> None:
    """Serve the slot at the other end of this socket until it is gone."""
    channel = Channel(socket.socket(fileno=descriptor))
    try:
        _serve(channel)
    except EOFError:
        logger.debug("the slot is gone")
    except ConfigurationError as error:
        _tell_error(channel, str(error), configuration=True)
    except Exception as error:
        logger.exception("a stage is broken")
        _tell_error(channel, f"{type(error).__name__}: {error}", configuration=False)
    _leave()


def _leave() -> NoReturn:
    """Not in good order: what waits for a neighbour that is gone would wait for ever."""
    sys.stderr.flush()
    os._exit(1)


def _tell_error(channel: Channel, error: str, *, configuration: bool) -> None:
    with suppress(OSError):  # the slot is gone too
        channel.send({"error": error, "configuration": configuration})


def _serve(channel: Channel) -> None:
    told, _ = channel.receive()
    spec = ModelSpec.model_validate(told["spec"])
    stage, stages = told["stage"], told["stages"]
    quietly()
    use_threads(told["threads"])
    device = choose_device(spec, told["device"])
    stay_on(device)
    cutter = Cutter(spec)
    _tell_times(channel, spec, cutter, device, stages)
    told_layers, _ = channel.receive()
    layers = range(*told_layers["layers"])
    part = cutter.load(layers, device)
    # Steps take turns, so what attention reads in one is not what it reads in the next.
    fitting = Fitting(spec, part, goes_on=False)
    context = min(context_of(spec, part.model, LARGEST_SANE_CONTEXT), fitting.longest_alike or sys.maxsize)
    fitting.try_largest_step(context)
    channel.send(
        {
            "memory": fitting.memory,
            "bytes_per_token": fitting.bytes_per_token,
            "block_size": fitting.attention.block_size,
            "attention": fitting.attention.name,
            "context": context,
            "vocabulary": fitting.vocabulary,
            "ends": ends_of(part.model),
        }
    )
    sized, _ = channel.receive()
    runner = fitting.stage(Size(sized["blocks"], sized["block_size"]), sized["context"])
    links = link(Ends(stage, stages, part.width, part.dtype, device), Path(told["rendezvous"]))
    runner.warm_up()
    stopwatch = Stopwatch(Meter(stages, told["meter"]), stage, device)
    channel.send({"ready": True})
    _run(channel, runner, links, stopwatch, device, first=part.first)


def _tell_times(channel: Channel, spec: ModelSpec, cutter: Cutter, device: torch.device, stages: int) -> None:
    times = weigh(spec, cutter, device, rows=-(-spec.max_batch // stages))
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    channel.send({"kind": kind, "layers": list(times.layers), "before": times.before, "after": times.after})


@torch.inference_mode()
def _run(
    channel: Channel, stage: Stage, links: Links, stopwatch: Stopwatch, device: torch.device, *, first: bool
) -> None:
    """Run steps in the order in which they are told. What is launched waits on the device for what it needs."""
    answers: queue.SimpleQueue[tuple[int, Fetching]] = queue.SimpleQueue()
    threading.Thread(target=_answer, args=(channel, answers), name="answers", daemon=True).start()
    heard: deque[tuple[int, torch.Tensor, Arrival]] = deque()
    while True:
        order = Order.of(*channel.receive())
        step = order.step
        stage.release(order.released)
        stage.admit(order.admitted)
        arrival = None if first else links.expect(len(step.ids))
        while heard and heard[0][0] <= order.needs:
            _, slots, tokens = heard.popleft()
            stage.know(slots, tokens.wait())
        given = None if arrival is None else arrival.wait()
        with stopwatch.step():
            out, drawn = stage.run(step, given)
        draws = len(step.drawing)
        if out is not None:
            links.pass_on(out)
        if drawn is not None:
            answers.put((order.number, Fetching(drawn, draws)))
            if draws:
                links.tell(drawn.tokens[:draws])
        if first and draws:
            slots = upload(step.drawing.tolist(), torch.long, device)
            heard.append((order.number, slots, links.hear(draws)))


def _answer(channel: Channel, answers: queue.SimpleQueue[tuple[int, Fetching]]) -> None:
    """Bring what was drawn to the slot, while the next steps are launched. Without this the process is of no use."""
    try:
        while True:
            number, flight = answers.get()
            channel.send(*landed_message(number, flight.land()))
    except OSError:
        logger.debug("the slot is gone")
    except Exception as error:
        logger.exception("a stage is broken")
        _tell_error(channel, f"{type(error).__name__}: {error}", configuration=False)
    _leave()
