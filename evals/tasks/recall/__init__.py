"""The recall task: links hidden in long contexts."""
