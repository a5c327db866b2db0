"""Follow a table from a management command: the blocking door, in a process of its own."""

import signal
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from supawire import Gap, RealtimeError, changes, connect, gaps


class Command(BaseCommand):
    """What is done with each row stands in `took`; here it is printed."""

    help = "Follow the changes of the table orders, until SIGTERM or Ctrl-C."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """`--filter total=gte.100` follows a part of the table."""
        parser.add_argument("--filter")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run until it is ended from outside, or by a refusal for good."""
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a supervisor's word ends it like Ctrl-C
        try:
            with connect(settings.SUPAWIRE_URL, settings.SUPAWIRE_KEY) as client:
                channel = client.channel("orders")
                events = channel.listen(changes("orders", filter=options["filter"]), gaps())
                channel.subscribe(wait="ready")
                self.stdout.write("following")
                self.stdout.flush()
                for event in events:
                    self.took(event)
        except KeyboardInterrupt:
            self.stdout.write("stopped")
        except RealtimeError as error:
            raise CommandError(str(error)) from error

    def took(self, event: Any) -> None:
        """A row, or a time in which rows may have been missed."""
        if isinstance(event, Gap):
            self.stdout.write("fetch again")
        else:
            self.stdout.write(f"{event.type} {event.old_record if event.type == 'DELETE' else event.record}")
        self.stdout.flush()
