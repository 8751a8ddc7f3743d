"""What every room uses: settings, types, errors, files, keys, and the words of the commands."""
