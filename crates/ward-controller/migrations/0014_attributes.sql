-- The attributes that a provider's key servers are known not to take: told once, not with each key.
ALTER TABLE provider ADD COLUMN attributes_refused TEXT NOT NULL DEFAULT '';
