"""What is run from a shell: python -m dilib.commands.NAME."""
