"""What the student is taught: targets from labels and a teacher, prompts written for it, and changed copies of both."""
