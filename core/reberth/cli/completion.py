"""`reberth completion`: the script that teaches a shell to complete reberth."""

from __future__ import annotations

from reberth.cli.output import write
from reberth.cli.shells import Shell, checked
from reberth.complete import texts


def command(shell: Shell) -> None:
    """Print the completion script of a shell.

    The packages install it. Otherwise:

    \b
    reberth completion bash > ~/.local/share/bash-completion/completions/reberth
    reberth completion fish > ~/.config/fish/completions/reberth.fish
    reberth completion zsh > DIR/_reberth, where DIR is in fpath
    """
    write(texts.completion(checked(shell)))
