"""What a job takes: requests to the scheduler, the plan, hours."""
