"""A Django project with one command, `python manage.py follow_orders`; its settings are in this file."""

import os
import sys

from django.conf import settings
from django.core.management import execute_from_command_line

settings.configure(
    INSTALLED_APPS=["orders"],
    SUPAWIRE_URL=os.environ["SUPAWIRE_URL"],
    SUPAWIRE_KEY=os.environ["SUPAWIRE_KEY"],
)

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
