"""A management command that follows a table with the sync client, in its own process."""

import signal
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from supawire import Gap, RealtimeError, changes, connect, gaps


class Command(BaseCommand):
    """Prints each change; replace `process` with your own code."""

    help = "Follow the changes of the table orders, until SIGTERM or Ctrl-C."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the option `--filter total=gte.100`, which follows a part of the table."""
        parser.add_argument("--filter")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run until a signal or a permanent refusal ends it."""
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends it like Ctrl-C
        try:
            with connect(settings.SUPAWIRE_URL, settings.SUPAWIRE_KEY) as client:
                channel = client.channel("orders")
                events = channel.listen(changes("orders", filter=options["filter"]), gaps())
                channel.subscribe(wait="ready")
                self.stdout.write("following")
                self.stdout.flush()
                for event in events:
                    self.process(event)
        except KeyboardInterrupt:
            self.stdout.write("stopped")
        except RealtimeError as error:
            raise CommandError(str(error)) from error

    def process(self, event: Any) -> None:
        """Process a change, or a period in which changes may have been missed."""
        if isinstance(event, Gap):
            self.stdout.write("fetch again")
        else:
            self.stdout.write(f"{event.type} {event.old_record if event.type == 'DELETE' else event.record}")
        self.stdout.flush()
