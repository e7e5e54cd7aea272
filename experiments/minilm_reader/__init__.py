"""What a small reader on a real encoder loses to compressed memories, before and after adapting."""
