"""The faults that the emulator can produce, each with its own switch."""

import random
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr
from pydantic.alias_generators import to_camel


class _Settings(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")


class Switch(_Settings):
    """A fault that strikes with `probability`, until the `next` strikes are used up (None: for ever)."""

    probability: Annotated[float, Field(ge=0, le=1)] = 1.0
    next: Annotated[int, Field(ge=0)] | None = None


class RefusalSwitch(Switch):
    status: Annotated[int, Field(ge=500, le=599)] = 503


class ReorderSwitch(Switch):
    window_seconds: Annotated[float, Field(gt=0)] = 5.0


class DelaySwitch(Switch):
    seconds: Annotated[float, Field(gt=0)]


class Faults(_Settings):
    """All switches. A switch that is not given is off.

    Example: ``{"duplicate": {"probability": 0.1}, "loseResponse": {"next": 3}}``.
    """

    seed: int | None = None
    """Makes all random choices below repeatable."""

    refuse_publish: RefusalSwitch | None = None
    """The publisher gets `status`, and the emulator accepts nothing."""
    lose_publish_response: Switch | None = None
    """The emulator accepts the events and closes the connection without an answer."""
    lose_delivery: Switch | None = None
    """The emulator accepts the event and never delivers it."""
    probation: Switch | None = None
    """The event becomes a dead letter without one attempt."""
    delay: DelaySwitch | None = None
    """The first attempt comes `seconds` late."""
    reorder: ReorderSwitch | None = None
    """The emulator holds the event for a random part of `window_seconds`, so later events overtake it."""
    duplicate: Switch | None = None
    """The emulator delivers the event twice at the same time."""
    lose_response: Switch | None = None
    """The emulator delivers the event, loses the subscriber's answer, and retries."""

    delayed_delivery: bool = True
    """Whether the emulator also holds back new events for an endpoint that keeps failing."""
    jitter: Annotated[float, Field(ge=0, le=1)] = 0.1
    """A retry comes late by up to this share of its delay."""

    _random: random.Random = PrivateAttr()

    def model_post_init(self, _: object) -> None:
        self._random = random.Random(self.seed)

    def strikes(self, switch: Switch | None) -> bool:
        """Decides at random, once, whether `switch` strikes."""
        if switch is None or switch.next == 0 or self._random.random() >= switch.probability:
            return False
        if switch.next is not None:
            switch.next -= 1
        return True

    def first_delay_s(self) -> float:
        """How late the first attempt of an event comes."""
        late_s = self.delay.seconds if self.delay and self.strikes(self.delay) else 0.0
        if self.reorder and self.strikes(self.reorder):
            late_s += self._random.uniform(0, self.reorder.window_seconds)
        return late_s

    def retry_jitter(self) -> float:
        return self._random.uniform(0, self.jitter)
