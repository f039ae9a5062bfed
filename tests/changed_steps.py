"""Training steps whose results a test changes."""

import itertools

from flax_resnet.training import loop


class _Changed:
    """A compiled step that is followed by a change; all else is the step's own."""

    def __init__(self, compiled, change, numbers):
        self._compiled, self._change, self._numbers = compiled, change, numbers

    def __getattr__(self, name):
        return getattr(self._compiled, name)

    def __call__(self, state, sums, batch):
        return self._change(next(self._numbers), *self._compiled(state, sums, batch))


def change_steps(monkeypatch, change):
    """Let ``change(number, state, sums)`` replace what each step returns, numbered from 1."""
    compile_step, numbers = loop.compile_step, itertools.count(1)
    monkeypatch.setattr(
        loop, "compile_step", lambda *arrays: _Changed(compile_step(*arrays), change, numbers)
    )
