"""Say plainly, while a codebook trains, that it is dying."""

from __future__ import annotations

import logging

from nearfar.heads.quantiser import WINDOW, GumbelQuantiser

EVERY = 50
"""Steps between looks."""
COLLAPSED = 1.5
"""A group whose codes have a lower perplexity says next to nothing."""
DEAD = 0.5
"""Share of dead codes above which the codebook is too large for its data, or has collapsed in part."""


class CodebookAlarm:
    """Watches the codes that training chooses; warns once of each trouble and lets training go on."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self._warned: set[str] = set()

    def look(self, quantiser: GumbelQuantiser, step: int) -> None:
        """Look at a quantiser after `step` steps: at every `EVERY`th, and not before a window has passed."""
        if step % EVERY or step < WINDOW:
            return
        for group, (perplexity, dead) in enumerate(
            zip(quantiser.perplexity.tolist(), quantiser.dead.tolist(), strict=True), start=1
        ):
            if perplexity < COLLAPSED:
                self._warn(
                    f"collapsed {group}",
                    f"codebook {group} has collapsed at step {step}: its {quantiser.codes} codes are used like "
                    f"{perplexity:.1f}. Every target is alike, and the contrast is lost. Raise the weight of the "
                    "diversity loss, or lower the learning rate",
                )
            elif dead > DEAD * quantiser.codes:
                self._warn(
                    f"dead {group}",
                    f"{dead} of the {quantiser.codes} codes of codebook {group} are dead at step {step}: none was "
                    f"chosen in the last {WINDOW} steps. Use fewer codes, or raise the weight of the diversity loss",
                )

    def _warn(self, trouble: str, words: str) -> None:
        if trouble not in self._warned:
            self._warned.add(trouble)
            self.warnings.append(words)
            logging.getLogger("nearfar").warning(words)
