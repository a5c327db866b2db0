"""`supawire completion`: print or install the script with which a shell completes commands and options."""

from typing import Annotated, Literal

from cyclopts import Parameter


def completion(
    shell: Annotated[Literal["bash", "zsh", "fish", "powershell"], Parameter(help="The shell.")],
    /,
    *,
    install: Annotated[
        bool,
        Parameter(
            negative=(),
            show_default=False,
            help="Write the script to the shell's folder, and load it in the shell's start-up file.",
        ),
    ] = False,
) -> int:
    """Print the script that completes commands and options in a shell.

    For this session only: eval "$(supawire completion bash)"
    """
    from supawire.cli import build

    if install:
        print(f"Completion is installed in {build().install_completion(shell=shell)}; open a new {shell} to use it.")
    else:
        print(build().generate_completion(shell=shell))
    return 0
