-- The audit log.

-- name: last_audit_row
SELECT seq, hash
  FROM admin_audit_log
 ORDER BY seq DESC
 LIMIT 1;

-- name: append_audit_row
INSERT INTO admin_audit_log (
    seq, id, actor_id, action, target_type, target_id, details, ip, user_agent, correlation_id, token_id, created_at_us,
    previous_hash, hash)
VALUES (
    :seq, :id, :actor_id, :action, :target_type, :target_id, :details, :ip, :user_agent, :correlation_id, :token_id, :now_us,
    :previous_hash, :hash);

-- name: audit_counts
-- The number of rows of each filter, up to :count_max. The page is then read through the index of the rarest filter.
SELECT (SELECT count(*) FROM (SELECT 1 FROM admin_audit_log WHERE target_id = :target_id LIMIT :count_max + 0)),
       (SELECT count(*) FROM (SELECT 1 FROM admin_audit_log WHERE actor_id = :actor_id LIMIT :count_max + 0)),
       (SELECT count(*) FROM (SELECT 1 FROM admin_audit_log WHERE action = :action LIMIT :count_max + 0)),
       (SELECT count(*) FROM (SELECT 1 FROM admin_audit_log WHERE target_type = :target_type LIMIT :count_max + 0));

-- name: audit_page
-- Newest first, like the pages below: by time, and by number within the same time.
SELECT seq, id, actor_id, action, target_type, target_id, details, ip, user_agent, correlation_id, token_id, created_at_us, hash
  FROM admin_audit_log
 WHERE (created_at_us, seq) < (:before_us, :before_seq)
   AND created_at_us >= :from_us
 ORDER BY created_at_us DESC, seq DESC
 LIMIT :count + 0;

-- name: audit_page_of_target
SELECT seq, id, actor_id, action, target_type, target_id, details, ip, user_agent, correlation_id, token_id, created_at_us, hash
  FROM admin_audit_log
 WHERE target_id = :target_id
   AND (created_at_us, seq) < (:before_us, :before_seq)
   AND created_at_us >= :from_us
   AND (:actor_id IS NULL OR actor_id = :actor_id)
   AND (:action IS NULL OR action = :action)
   AND (:target_type IS NULL OR target_type = :target_type)
 ORDER BY created_at_us DESC, seq DESC
 LIMIT :count + 0;

-- name: audit_page_of_actor
SELECT seq, id, actor_id, action, target_type, target_id, details, ip, user_agent, correlation_id, token_id, created_at_us, hash
  FROM admin_audit_log
 WHERE actor_id = :actor_id
   AND (created_at_us, seq) < (:before_us, :before_seq)
   AND created_at_us >= :from_us
   AND (:target_id IS NULL OR target_id = :target_id)
   AND (:action IS NULL OR action = :action)
   AND (:target_type IS NULL OR target_type = :target_type)
 ORDER BY created_at_us DESC, seq DESC
 LIMIT :count + 0;

-- name: audit_page_of_action
SELECT seq, id, actor_id, action, target_type, target_id, details, ip, user_agent, correlation_id, token_id, created_at_us, hash
  FROM admin_audit_log
 WHERE action = :action
   AND (created_at_us, seq) < (:before_us, :before_seq)
   AND created_at_us >= :from_us
   AND (:target_id IS NULL OR target_id = :target_id)
   AND (:actor_id IS NULL OR actor_id = :actor_id)
   AND (:target_type IS NULL OR target_type = :target_type)
 ORDER BY created_at_us DESC, seq DESC
 LIMIT :count + 0;

-- name: audit_page_of_target_type
SELECT seq, id, actor_id, action, target_type, target_id, details, ip, user_agent, correlation_id, token_id, created_at_us, hash
  FROM admin_audit_log
 WHERE target_type = :target_type
   AND (created_at_us, seq) < (:before_us, :before_seq)
   AND created_at_us >= :from_us
   AND (:target_id IS NULL OR target_id = :target_id)
   AND (:actor_id IS NULL OR actor_id = :actor_id)
   AND (:action IS NULL OR action = :action)
 ORDER BY created_at_us DESC, seq DESC
 LIMIT :count + 0;
