"""`reberth shell-init`: what makes `runc migrate` a command of an interactive shell."""

from __future__ import annotations

from reberth.cli.output import write
from reberth.cli.shells import Shell, checked
from reberth.complete import texts


def command(shell: Shell) -> None:
    """Print functions for `runc migrate ID NODE:`, to be evaluated.

    Everything but `migrate` goes to the real runc or crun; scripts never see the functions. In the shell's own start
    file, for zsh after compinit:

    \b
    eval "$(reberth shell-init bash)"
    eval "$(reberth shell-init zsh)"
    reberth shell-init fish | source
    """
    write(texts.shell_init(checked(shell)))
