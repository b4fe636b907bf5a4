#!lua name=dpfs
-- The server's side of the `valkey` engine: what changes or reads several records of a volume, in one step.
--
-- KEYS[1] is the volume's prefix, "{volume}", which also names the hash slot, and no key; KEYS[2] is PREFIX .. "k". So
-- a node of a cluster that has only some of the slot's keys runs none of this. Records are named in ARGV as
-- Key::encode writes them: inode number (8 bytes, big-endian), kind, name or number. They are kept as
--
--   PREFIX .. kind .. inode   a string, for the kinds of which an inode has one
--   PREFIX .. kind .. inode   a hash by name (3 names, 2 extended attributes)
--   PREFIX .. kind .. inode   a sorted set in the order of bytes: number, version, value (4 positions, 6 orphans)
--   PREFIX .. 5 .. inode .. index   a string: a chunk of content, index in 4 bytes, big-endian
--   PREFIX .. 5 .. inode      a sorted set by number: which chunks there are, but for the first
--   PREFIX .. "k"             a hash: the size of chunks, and when the volume was made
--   PREFIX .. "r"             a counter: the numbers given out
--   PREFIX .. "n"             a counter: the clients that changed something so far
--   PREFIX .. "i" .. counter  which server counted last
--   PREFIX .. "s" .. client   a hash: sequence number -> result, kept until the client says that it has it; from: the
--                             lowest number that it wants; id: its number among the clients; lost: the number at
--                             which the server was found to have forgotten what it had answered
--   PREFIX .. "y"             a counter, raised before what is there is made durable
--
-- The stored value of a record is its version (8 bytes) and its value. A version is the number of the client that made
-- it (3 bytes) and its sequence number (5 bytes). Numbers in Lua are exact below 2^53 only, so fields of 64 bits are
-- taken in halves.

-- Raised when a function comes or changes. Later versions do for earlier clients what theirs did.
local VERSION = 3
local XATTR, NAME, POSITION, ORPHAN = 2, 3, 4, 6
-- Most chunks that one call looks at, and most keys that one SCAN does.
local STEP, SCANNED = 256, 500
-- Results that may be forgotten are removed so many at a time.
local BATCH = 32
-- First number that is given out; files have those from here on.
local FIRST_NUMBER = 1024
-- Seconds after which a client that was not heard of is forgotten: 30 days.
local CLIENT_LIFE = 2592000
local HALF = 4294967296
-- Counts that another server leaves out: more than were ever given out and lost with the one before.
local LOST_NUMBERS, LOST_CLIENTS = 16777216, 64

-- Adds to a counter, and gives what it is then. A server that was behind when it came back, or a replica that took its
-- place, does not know what was given out last, and who got it still uses it. So another server than before leaves some out.
local function counted(prefix, counter, count, lost)
    local here = redis.call('INFO', 'replication'):match('master_replid:(%x+)') or ''
    local before = redis.call('GET', prefix .. 'i' .. counter)
    if before ~= here then redis.call('SET', prefix .. 'i' .. counter, here) end
    if before and before ~= here then count = count + lost end
    return redis.call('INCRBY', prefix .. counter, count)
end

-- Where a record is kept: key, kind, name or number.
local function place(prefix, key)
    return prefix .. key:sub(9, 9) .. key:sub(1, 8), key:byte(9), key:sub(10)
end

local function listed(kind)
    return kind == POSITION or kind == ORPHAN
end

local function named(kind)
    return kind == XATTR or kind == NAME
end

-- The member of a sorted set that begins with a number of 8 bytes. "[" and the number is the least that does;
-- behind it and 0xff no other number comes before, as a member is longer than a number and its version is not 0xff.
local function member(at, number)
    return redis.call('ZRANGEBYLEX', at, '[' .. number, '(' .. number .. '\255', 'LIMIT', 0, 1)[1]
end

-- The stored value of a record, or false.
local function load(prefix, key)
    local at, kind, tail = place(prefix, key)
    if listed(kind) then
        local found = member(at, tail)
        return found and found:sub(9)
    elseif named(kind) then
        return redis.call('HGET', at, tail)
    end
    return redis.call('GET', at)
end

local function remove(prefix, key)
    local at, kind, tail = place(prefix, key)
    if listed(kind) then
        local found = member(at, tail)
        if found then redis.call('ZREM', at, found) end
    elseif named(kind) then
        redis.call('HDEL', at, tail)
    else
        redis.call('DEL', at)
    end
end

local function store(prefix, key, version, value)
    local at, kind, tail = place(prefix, key)
    if listed(kind) then
        remove(prefix, key)
        redis.call('ZADD', at, 0, tail .. version .. value)
    elseif named(kind) then
        redis.call('HSET', at, tail, version .. value)
    else
        redis.call('SET', at, version .. value)
    end
end

-- The number of `bits` / 8 bytes at byte `at` of a value, low half first; nothing when it reaches beyond.
local function halves(value, at, bits)
    if at + bits / 8 > #value then return end
    if bits == 32 then return (struct.unpack('<I4', value, at + 1)) end
    local low, high = struct.unpack('<I4I4', value, at + 1)
    return low, high
end

local function splice(value, at, bytes)
    return value:sub(1, at) .. bytes .. value:sub(at + #bytes + 1)
end

-- One field changed: S bytes, M at least, A add to 64 bits, a add to 32 bits, C clear bits.
local function patched(value, kind, at, bytes)
    if kind == 'S' then
        if at + #bytes > #value then return value end
        return splice(value, at, bytes)
    end
    local bits = (kind == 'M' or kind == 'A') and 64 or 32
    local low, high = halves(value, at, bits)
    if not low then return value end
    local by_low, by_high = halves(bytes, 0, bits)
    if kind == 'M' then
        if high > by_high or (high == by_high and low >= by_low) then return value end
        return splice(value, at, bytes)
    elseif kind == 'A' then
        low = low + by_low
        high = (high + by_high + math.floor(low / HALF)) % HALF
        return splice(value, at, struct.pack('<I4I4', low % HALF, high))
    elseif kind == 'a' then
        return splice(value, at, struct.pack('<I4', (low + by_low) % HALF))
    end
    return splice(value, at, struct.pack('<I4', bit.band(low, bit.bnot(by_low)) % HALF))
end

-- All patches: kind, place (2 bytes), length (2 bytes), bytes; again and again.
local function patch(value, patches)
    local from = 1
    while from <= #patches do
        local kind, at, len = struct.unpack('<c1I2I2', patches, from)
        value = patched(value, kind, at, patches:sub(from + 5, from + 4 + len))
        from = from + 5 + len
    end
    return value
end

-- Whether a stored value is as expected: A absent, P present, V this version, B these bits, L a field of at least this.
local function holds(stored, expect)
    local kind = expect:sub(1, 1)
    if kind == 'A' or not stored then return kind == 'A' and not stored end
    if kind == 'P' then return true end
    if kind == 'V' then return stored:sub(1, 8) == expect:sub(2, 9) end
    local at, mask, want = struct.unpack('<I2I4I4', expect, 2)
    if kind == 'L' then
        local low, high = halves(stored, 8 + at, 64)
        return low ~= nil and (high > want or (high == want and low >= mask))
    end
    local field = halves(stored, 8 + at, 32)
    return field ~= nil and bit.band(field, mask) == bit.tobit(want)
end

-- Does something once for each sequence number of a client: client, sequence, ack, "1" when the number before `ack` was
-- answered. Results of numbers below `ack` are not asked for again.
local function once(prefix, argv, change)
    local results, sequence, ack = prefix .. 's' .. argv[1], argv[2], tonumber(argv[3])
    local known = redis.call('HMGET', results, sequence, 'from', 'id', ack - 1)
    if known[1] then return tonumber(known[1]) end
    local from = tonumber(known[2] or 0)
    -- What was acknowledged can only come again out of a connection that was given up long ago.
    if tonumber(sequence) < math.max(from, ack) then return redis.error_reply('DPFS stale sequence number') end
    local id = known[3] or counted(prefix, 'n', 1, LOST_CLIENTS)
    local result = change(struct.pack('>I3I5', id, sequence))
    redis.call('HSET', results, 'from', math.max(from, ack), sequence, result)
    -- The server was behind when it came back, or another took its place.
    if argv[4] == '1' and ack > 1 and ack > from and not known[4] then
        redis.call('HSET', results, 'lost', sequence)
    end
    if not known[3] then
        redis.call('HSET', results, 'id', id)
        redis.call('EXPIRE', results, CLIENT_LIFE)
    end
    local kept = from - from % BATCH
    if from > 0 and ack - kept >= BATCH then
        for first = kept, ack - 1, BATCH do
            local old = {}
            for each = first, math.min(first + BATCH, ack) - 1 do old[#old + 1] = each end
            redis.call('HDEL', results, unpack(old))
        end
        redis.call('EXPIRE', results, CLIENT_LIFE)
    end
    return result
end

local function inode_at(prefix, ino)
    return prefix .. '\0' .. ino
end

-- The chunks of an inode but the first, by number.
local function chunks_at(prefix, ino)
    return prefix .. '\5' .. ino
end

local function chunk_at(prefix, ino, index)
    return prefix .. '\5' .. ino .. struct.pack('>I4', index)
end

-- Notes that an inode has a chunk.
local function list_chunk(prefix, ino, index, chunk)
    if index > 0 and redis.call('EXISTS', chunk) == 0 then redis.call('ZADD', chunks_at(prefix, ino), index, index) end
end

-- Makes what a chunk has of the bytes `from` to `to` of its file zeros, or removes it.
local function clear(prefix, ino, index, size, from, to)
    local chunk, begin = chunk_at(prefix, ino, index), index * size
    local len = redis.call('STRLEN', chunk)
    local first, last = math.max(from - begin, 0), math.min(to - begin, len)
    if first == 0 and last == len then
        redis.call('UNLINK', chunk)
        if index > 0 then redis.call('ZREM', chunks_at(prefix, ino), index) end
    elseif first < len and last == len then
        redis.call('SET', chunk, redis.call('GETRANGE', chunk, 0, first - 1))
    elseif first < last then
        redis.call('SETRANGE', chunk, first, ('\0'):rep(last - first))
    end
end

-- The inode that the first 8 bytes of a stored value name, or false.
local function followed(prefix, stored)
    local ino = #stored >= 16 and stored:sub(9, 16):reverse()
    return ino and redis.call('GET', inode_at(prefix, ino)) or false
end

-- Whether the volume is there: version of this library, size of chunks, and when it was made. With a size it is made.
redis.register_function{function_name = 'dpfs_open', flags = {'allow-oom'}, callback = function(keys, argv)
    local at = keys[1] .. 'k'
    if argv[1] ~= '0' and redis.call('EXISTS', at) == 0 then
        local now = redis.call('TIME')
        redis.call('HSET', at, 'chunk', argv[1], 'made', now[1] .. '.' .. now[2])
    end
    local found = redis.call('HMGET', at, 'chunk', 'made')
    return {VERSION, tonumber(found[1] or 0), found[2] or ''}
end}

-- What is done once, then number of checks, {key, expectation}, {key, P put | D delete | U patch, value}: 1, or 0 when
-- a check does not hold.
local function transact(keys, argv)
    local prefix = keys[1]
    return once(prefix, argv, function(version)
        local at = 6
        for _ = 1, tonumber(argv[5]) do
            if not holds(load(prefix, argv[at]), argv[at + 1]) then return 0 end
            at = at + 2
        end
        while at < #argv do
            local key, kind, value = argv[at], argv[at + 1], argv[at + 2]
            if kind == 'P' then
                store(prefix, key, version, value)
            elseif kind == 'D' then
                remove(prefix, key)
            else
                local stored = load(prefix, key)
                if stored then store(prefix, key, version, patch(stored:sub(9), value)) end
            end
            at = at + 3
        end
        return 1
    end)
end

redis.register_function('dpfs_transact', transact)
-- The same for what takes away, or adds little, so that there is a way back from a store that is full.
redis.register_function{function_name = 'dpfs_release', flags = {'allow-oom'}, callback = transact}

-- What is done once, then inode, expectation, patches, size of chunks, offset, bytes: 1, or 0 when the inode is not as
-- expected.
redis.register_function('dpfs_write', function(keys, argv)
    local prefix, ino = keys[1], argv[5]
    return once(prefix, argv, function(version)
        local stored = redis.call('GET', inode_at(prefix, ino))
        if not stored or not holds(stored, argv[6]) then return 0 end
        local size, offset, bytes, at = tonumber(argv[8]), tonumber(argv[9]), argv[10], 0
        while at < #bytes do
            local inside = (offset + at) % size
            local index = (offset + at - inside) / size
            local count = math.min(size - inside, #bytes - at)
            local chunk = chunk_at(prefix, ino, index)
            list_chunk(prefix, ino, index, chunk)
            -- A string of Lua is a copy, so the usual one piece is not cut.
            redis.call('SETRANGE', chunk, inside, count == #bytes and bytes or bytes:sub(at + 1, at + count))
            at = at + count
        end
        redis.call('SET', inode_at(prefix, ino), version .. patch(stored:sub(9), argv[7]))
        return 1
    end)
end)

-- What is done once, then inode, expectation and offset of the source; inode, expectation and patches of where it is
-- copied to, size of chunks, offset, number of bytes: 1, or 0 when an inode is not as expected.
redis.register_function('dpfs_copy', function(keys, argv)
    local prefix, source, ino = keys[1], argv[5], argv[8]
    return once(prefix, argv, function(version)
        if not holds(redis.call('GET', inode_at(prefix, source)), argv[6]) then return 0 end
        local stored = redis.call('GET', inode_at(prefix, ino))
        if not stored or not holds(stored, argv[9]) then return 0 end
        local size, from, to, left = tonumber(argv[11]), tonumber(argv[7]), tonumber(argv[12]), tonumber(argv[13])
        while left > 0 do
            local there, inside = from % size, to % size
            local index = (to - inside) / size
            local count = math.min(size - there, size - inside, left)
            local old, new = chunk_at(prefix, source, (from - there) / size), chunk_at(prefix, ino, index)
            local copied = count
            if count == size then
                -- A whole chunk is copied where it is.
                if redis.call('EXISTS', old) == 1 then
                    list_chunk(prefix, ino, index, new)
                    redis.call('COPY', old, new, 'REPLACE')
                else
                    copied = 0
                end
            else
                local bytes = redis.call('GETRANGE', old, there, there + count - 1)
                copied = #bytes
                if copied > 0 then
                    list_chunk(prefix, ino, index, new)
                    redis.call('SETRANGE', new, inside, bytes)
                end
            end
            if copied < count then clear(prefix, ino, index, size, to + copied, to + count) end
            from, to, left = from + count, to + count, left - count
        end
        redis.call('SET', inode_at(prefix, ino), version .. patch(stored:sub(9), argv[10]))
        return 1
    end)
end)

-- What is done once, then inode, from, to, size of chunks: 0, or the byte to go on from.
redis.register_function{function_name = 'dpfs_clear', flags = {'allow-oom'}, callback = function(keys, argv)
    local prefix, ino = keys[1], argv[5]
    local from, to, size = tonumber(argv[6]), tonumber(argv[7]), tonumber(argv[8])
    return once(prefix, argv, function()
        if from >= to then return 0 end
        local first = math.floor(from / size)
        if first == 0 then clear(prefix, ino, 0, size, from, to) end
        local found = redis.call('ZRANGE', chunks_at(prefix, ino), math.max(first, 1), math.ceil(to / size) - 1,
            'BYSCORE', 'LIMIT', 0, STEP + 1)
        for each = 1, math.min(#found, STEP) do clear(prefix, ino, tonumber(found[each]), size, from, to) end
        return found[STEP + 1] and found[STEP + 1] * size or 0
    end)
end}

-- What is done once, then inode, expectation: 1, or 0 when the inode is not as expected.
redis.register_function{function_name = 'dpfs_purge', flags = {'allow-oom'}, callback = function(keys, argv)
    local prefix, ino = keys[1], argv[5]
    return once(prefix, argv, function()
        if not holds(redis.call('GET', inode_at(prefix, ino)), argv[6]) then return 0 end
        redis.call('DEL', inode_at(prefix, ino), prefix .. '\1' .. ino, prefix .. '\2' .. ino)
        remove(prefix, ('\0'):rep(8) .. '\6' .. ino)
        return 1
    end)
end}

-- What is done once, then count: the first of so many numbers that nobody else gets.
redis.register_function{function_name = 'dpfs_reserve', flags = {'allow-oom'}, callback = function(keys, argv)
    local prefix = keys[1]
    return once(prefix, argv, function()
        local count = tonumber(argv[5])
        return FIRST_NUMBER + counted(prefix, 'r', count, LOST_NUMBERS) - count
    end)
end}

-- client, sequence, seen: 1 when what the client was answered up to this number is still there, 0 when some of it, since
-- the number `seen`, is not. Always changes something, for WAIT and WAITAOF to wait for.
redis.register_function{function_name = 'dpfs_kept', flags = {'allow-oom'}, callback = function(keys, argv)
    local sequence, seen = tonumber(argv[2]), tonumber(argv[3])
    redis.call('INCR', keys[1] .. 'y')
    local known = redis.call('HMGET', keys[1] .. 's' .. argv[1], sequence, 'from', 'lost')
    if tonumber(known[3] or 0) > seen then return 0 end
    local there = known[1] or tonumber(known[2] or 0) > sequence
    return (there or sequence <= seen) and 1 or 0
end}

-- "1" to follow names or "0", {key}: for each key its stored value or nothing, and, when following, that of the inode
-- which the first 8 bytes of a name's value name.
redis.register_function{function_name = 'dpfs_get', flags = {'no-writes'}, callback = function(keys, argv)
    local prefix, follow, found = keys[1], argv[1] == '1', {}
    for at = 2, #argv do
        local stored = load(prefix, argv[at])
        found[#found + 1] = stored or false
        if follow then
            local name = stored and argv[at]:byte(9) == NAME
            found[#found + 1] = name and followed(prefix, stored) or false
        end
    end
    return found
end}

-- inode, offset, size of the file, size of chunks, "1" to find a hole: {"=", byte} when found, {"+", byte} where to go on.
redis.register_function{function_name = 'dpfs_seek', flags = {'no-writes'}, callback = function(keys, argv)
    local prefix, ino, hole = keys[1], argv[1], argv[5] == '1'
    local offset, size, chunk = tonumber(argv[2]), tonumber(argv[3]), tonumber(argv[4])
    local first = math.floor(offset / chunk)
    local found = redis.call('ZRANGE', chunks_at(prefix, ino), math.max(first, 1), math.ceil(size / chunk) - 1,
        'BYSCORE', 'LIMIT', 0, STEP)
    local more = #found == STEP
    if first == 0 and redis.call('EXISTS', chunk_at(prefix, ino, 0)) == 1 then table.insert(found, 1, 0) end
    local function at(byte)
        return {'=', math.min(math.max(byte, offset), size)}
    end
    if not hole then return at(found[1] and found[1] * chunk or size) end
    for each = 1, #found do
        if tonumber(found[each]) ~= first then return at(first * chunk) end
        first = first + 1
    end
    return more and {'+', first * chunk} or at(first * chunk)
end}

-- inode, where to begin: names of a directory as they come, of each the place to go on behind, itself and its stored value,
-- behind "1" when there may be more or "0".
redis.register_function{function_name = 'dpfs_names', flags = {'no-writes'}, callback = function(keys, argv)
    local cursor, found, all = argv[2], {}, {'0'}
    repeat
        local reply = redis.call('HSCAN', keys[1] .. '\3' .. argv[1], cursor, 'COUNT', STEP)
        cursor, found = reply[1], reply[2]
    until cursor == '0' or #found > 0
    if cursor ~= '0' then all[1] = '1' end
    for each = 1, #found, 2 do
        all[#all + 1], all[#all + 2], all[#all + 3] = cursor, found[each], found[each + 1]
    end
    return all
end}

-- kind, inode, where to begin, most records, "1" to follow: "1" when there may be more or "0", then of each record its
-- number, name or, of inodes, the place to go on behind and the number; its stored value; and, when following, that of
-- the inode which the value names. Positions and orphans begin at a number, names behind so many, inodes at a cursor of the server.
redis.register_function{function_name = 'dpfs_scan', flags = {'no-writes'}, callback = function(keys, argv)
    local prefix, kind, ino, follow = keys[1], argv[1]:byte(), argv[2], argv[5] == '1'
    local at, limit, all = prefix .. argv[1] .. ino, tonumber(argv[4]), {'0'}
    local function give(tail, stored)
        if #all > limit * (follow and 3 or 2) then
            all[1] = '1'
            return false
        end
        all[#all + 1], all[#all + 2] = tail, stored
        if follow then all[#all + 1] = followed(prefix, stored) end
        return true
    end
    if listed(kind) then
        for _, each in ipairs(redis.call('ZRANGEBYLEX', at, '[' .. argv[3], '+', 'LIMIT', 0, limit + 1)) do
            if not give(each:sub(1, 8), each:sub(9)) then break end
        end
    elseif named(kind) then
        local names = redis.call('HKEYS', at)
        table.sort(names)
        for each = tonumber(argv[3]) + 1, #names do
            if not give(names[each], redis.call('HGET', at, names[each])) then break end
        end
    else
        local cursor, found = argv[3], {}
        repeat
            local reply = redis.call('SCAN', cursor, 'MATCH', prefix .. '\0????????', 'COUNT', SCANNED)
            cursor, found = reply[1], reply[2]
        until cursor == '0' or #found > 0
        if cursor ~= '0' then all[1] = '1' end
        for _, each in ipairs(found) do
            all[#all + 1], all[#all + 2], all[#all + 3] = cursor, each:sub(-8), redis.call('GET', each)
        end
    end
    return all
end}
