"""What a model that grows knows of its growths: weights of every width, and what is saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from keras_grow.backend import strategy_scope, sync_state
from keras_grow.channels.graph import find_groups
from keras_grow.core import keras_private
from keras_grow.growing.events import GrowthEvent
from keras_grow.growing.failures import explained
from keras_grow.growing.rewidening import go_to_growths, growths_before, widen_weights
from keras_grow.growing.transaction import transaction
from keras_grow.growing.weight_loading import all_or_nothing, check_save_path, check_shapes
from keras_grow.model.training import PenalisedModel
from keras_grow.penalty.window import PenaltyWindow, penalised_kernels


class GrownModel(PenalisedModel):
    """A model with the history of its growths, by which weights of other widths are understood."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._growth_history: tuple[GrowthEvent, ...] = ()
        # Growths that the model has been taken back from, and could be taken to again.
        self._undone_growths: tuple[GrowthEvent, ...] = ()
        self._allow_inexact = False

    @property
    def growth_history(self) -> list[GrowthEvent]:
        """The growths of this model so far, saved with it."""
        return list(self._growth_history)

    @property
    def allow_inexact(self) -> bool:
        """Whether groups grow that a normalisation sees, where that changes the function.

        `growth_report()` says which those are. Saved with the model. Defaults to `False`.
        """
        return self._allow_inexact

    @allow_inexact.setter
    def allow_inexact(self, value: bool) -> None:
        if not isinstance(value, bool):
            raise TypeError(f"`allow_inexact` must be True or False. Received: {value!r}")
        self._allow_inexact = value

    def _set_growths(self, history: tuple, undone: tuple) -> None:
        self._growth_history, self._undone_growths = history, undone

    def note_growth(self, event: GrowthEvent) -> None:
        """Adds to the history, and closes the penalty's window, which is of the kernels before."""
        self._set_growths((*self._growth_history, event.bound_to(self)), ())
        self.set_window(None)

    def put_back_with(self, undo: ExitStack) -> None:
        """Has history and window put back as they are now, if `undo` is called."""
        undo.callback(self._set_growths, self._growth_history, self._undone_growths)
        undo.callback(self.set_window, self.penalty_window)

    def load_weights(self, filepath: str | Path, skip_mismatch: bool = False, **kwargs) -> None:
        """Loads weights as `keras.Model.load_weights` does, or changes nothing.

        Args:
            filepath: Path of a file that `save_weights` or `save` wrote.
            skip_mismatch: Whether to skip layers of other widths, with a warning.

        Raises:
            ValueError: if the file is of a model of other widths, naming them.
        """
        if skip_mismatch:
            super().load_weights(filepath, skip_mismatch=True, **kwargs)
            return
        with all_or_nothing(self, filepath):
            super().load_weights(filepath, **kwargs)

    def set_weights(self, weights: Sequence) -> None:
        """Sets the weights as `keras.Model.set_weights` does, or changes nothing.

        Weights of a width that the model has had before take it back there: widths, optimizer slots
        and growth history become those of then, and the penalty's window is closed. Weights of the
        width that it was taken back from take it there again, until it grows another way.

        Args:
            weights: Arrays as `get_weights()` returns them.

        Raises:
            ValueError: if they are of shapes that the model has not had.

        Example:

        >>> import keras, keras_grow
        >>> inputs = keras.Input((8,))
        >>> x = keras_grow.layers.GrowableDense(4, activation="relu", name="hidden")(inputs)
        >>> model = keras_grow.GrowableModel(inputs, keras.layers.Dense(3)(x))
        >>> model.compile("sgd", "mse")
        >>> narrow = model.get_weights()
        >>> event = model.grow(0.5, method="net2wider")
        >>> model.set_weights(narrow)
        >>> model.widths, model.growth_history
        ({'hidden': 4}, [])
        """
        sync_state(self)
        events, growths = self._growth_history + self._undone_growths, len(self._growth_history)
        graph = find_groups(self) if events else None
        number = growths_before(graph, weights, events, growths) if events else None
        if number is None or number == growths:
            check_shapes(self, weights)
            super().set_weights(weights)
            return
        with transaction() as steps, explained(f"Taking model `{self.name}` to other widths"):
            self.put_back_with(steps.undo)
            go_to_growths(steps, self, graph, events, growths, number)
            super().set_weights(weights)
            # Blocks that are taken out are gone, with what came after them.
            undone = tuple(takewhile(lambda event: event.block is None, events[number:]))
            self._set_growths(events[:number], undone)
            self.set_window(None)

    def widen_weights(
        self, weights: Sequence, since: GrowthEvent | None = None
    ) -> list[np.ndarray]:
        """Takes weights of an earlier width of this model to the present one.

        For weights that a callback keeps: an average, a teacher, those at the start. They are
        widened as the optimizer's own average of weights: copied channels are copied and scaled as
        they were in the model, without the noise or the step that a method adds to copies; fresh
        channels get their present weights.

        Args:
            weights: Arrays as `get_weights()` returned them at the earlier width.
            since: The growth that came next, one of `growth_history`. Defaults to the one that the
                shapes tell.

        Returns:
            Arrays of the shapes of `get_weights()`. The model is not changed.

        Raises:
            ValueError: if they are of shapes that the model has not had.

        Example:

        >>> import keras, keras_grow
        >>> inputs = keras.Input((8,))
        >>> x = keras_grow.layers.GrowableDense(4, activation="relu", name="hidden")(inputs)
        >>> model = keras_grow.GrowableModel(inputs, keras.layers.Dense(3)(x))
        >>> model.compile("sgd", "mse")
        >>> start = model.get_weights()
        >>> event = model.grow(0.5, method="net2wider")
        >>> [value.shape for value in model.widen_weights(start)]
        [(8, 6), (6,), (6, 3), (3,)]
        """
        sync_state(self)
        graph = find_groups(self)
        history = self._growth_history
        if since is not None and since not in history:
            raise ValueError(
                "`since` must be a growth of this model, one of `growth_history`. Received: "
                f"since={since!r}"
            )
        number = growths_before(graph, weights, history, len(history))
        if number is None and len(weights) == len(self.weights):
            check_shapes(self, weights)
        if number is None or (since is not None and history.index(since) != number):
            raise ValueError(
                "`weights` must be all weights of the model, as `get_weights()` returned them"
                + ("" if since is None else f" just before the growth '{since}'")
                + f". Received: {len(weights)} arrays of shapes {[np.shape(w) for w in weights]}"
            )
        return widen_weights(graph, weights, history[number:])

    def save(self, filepath: str | Path, *args, **kwargs) -> None:
        """Saves the whole model, as `keras.Model.save` does, in the `.keras` format."""
        check_save_path(filepath)
        super().save(filepath, *args, **kwargs)

    def get_growth_state(self) -> dict:
        """Returns what has come of growing beside the weights, as JSON can hold it."""
        return {
            "history": [event.to_dict() for event in self._growth_history],
            "window": None if self.penalty_window is None else self.penalty_window.get_config(),
            "allow_inexact": self._allow_inexact,
            # Keras saves no seed generator: without this, a Dropout would start anew.
            "seeds": [state.numpy().tolist() for state in keras_private.seed_states(self)],
        }

    def set_growth_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `get_growth_state` returned, in a model of the same widths."""
        self._allow_inexact = state.get("allow_inexact", False)
        history = (GrowthEvent.from_dict(event) for event in state["history"])
        self._set_growths(tuple(event.bound_to(self) for event in history), ())
        window = state["window"]
        if window:
            kernels = penalised_kernels(find_groups(self))
            with strategy_scope(self):
                window = PenaltyWindow.from_config(window, kernels)
        self.set_window(window or None)
        # Files of older versions have no seeds.
        for seed, value in zip(
            keras_private.seed_states(self), state.get("seeds", ()), strict=False
        ):
            seed.assign(value)

    def get_config(self) -> dict:
        return {**super().get_config(), "growth": self.get_growth_state()}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        growth = config.pop("growth", {"history": [], "window": None})
        model = super().from_config(config, custom_objects=custom_objects)
        model.set_growth_state(growth)
        return model
