"""What the lessons show and check: figures, the playground, the verdict, the exercises."""
