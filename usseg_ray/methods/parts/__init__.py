"""What methods are made of; no part knows a method."""
