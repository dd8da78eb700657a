"""What a sandbox may do: the policy model, profiles, resolution and the BPF compiler."""
