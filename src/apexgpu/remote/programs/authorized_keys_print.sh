# Print the keys that can log in to the container.
cat "$HOME/.ssh/authorized_keys" 2>/dev/null
echo
echo end
