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
--   PREFIX .. "s" .. client   a string, the client's record: its number among the clients (3 bytes); from, the lowest
--                             sequence number whose result it wants (5); lost, the number at which the server was found
--                             to have forgotten what it had answered (5); and of each sequence number from the one
--                             before `from` on its result and one (7 bytes), or 0 when there is none. Before version 3
--                             a hash
--   PREFIX .. "u"             a sorted set: the clients by when they were heard of, in seconds
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
-- Changes of a client after which it is heard of again; most that are forgotten then.
local BATCH = 32
-- First number that is given out; files have those from here on.
local FIRST_NUMBER = 1024
-- Seconds after which a client that was not heard of is forgotten: 30 days.
local CLIENT_LIFE = 2592000
local HALF = 4294967296
-- What stands for the version and value of a record in a list of which only the names are wanted.
local NO_VERSION = ('\0'):rep(8)
-- Bytes of a client's record before its results, and of each.
local HEAD, EACH = 13, 7
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

-- Keeps a stored value: version and value.
local function store(prefix, key, stored)
    local at, kind, tail = place(prefix, key)
    if listed(kind) then
        remove(prefix, key)
        redis.call('ZADD', at, 0, tail .. stored)
    elseif named(kind) then
        redis.call('HSET', at, tail, stored)
    else
        redis.call('SET', at, stored)
    end
end

-- The number of `bits` / 8 bytes at byte `at` of a value, low half first; nothing when it reaches beyond.
local function halves(value, at, bits)
    if at + bits / 8 > #value then return end
    if bits == 32 then return (struct.unpack('<I4', value, at + 1)) end
    local low, high = struct.unpack('<I4I4', value, at + 1)
    return low, high
end

-- What a field of a stored value becomes: S bytes, M at least, A add to 64 bits, a add to 32 bits, C clear bits. Nothing
-- when it stays.
local function patched(stored, kind, at, bytes)
    if kind == 'S' then
        return at + #bytes <= #stored and bytes
    end
    local bits = (kind == 'M' or kind == 'A') and 64 or 32
    local low, high = halves(stored, at, bits)
    if not low then return end
    local by_low, by_high = halves(bytes, 0, bits)
    if kind == 'M' then
        return (high < by_high or (high == by_high and low < by_low)) and bytes
    elseif kind == 'A' then
        low = low + by_low
        high = (high + by_high + math.floor(low / HALF)) % HALF
        return struct.pack('<I4I4', low % HALF, high)
    elseif kind == 'a' then
        return struct.pack('<I4', (low + by_low) % HALF)
    end
    return struct.pack('<I4', bit.band(low, bit.bnot(by_low)) % HALF)
end

-- A stored value with this version and all patches: kind, place (2 bytes), length (2 bytes), bytes; again and again. It
-- is put together once when they come in the order of their places, as they mostly do.
local function patch(stored, version, patches)
    local from, done, pieces, count = 1, 8, {version}, 1
    while from <= #patches do
        local kind, at, len = struct.unpack('<c1I2I2', patches, from)
        at = at + 8
        if at < done then
            pieces[count + 1] = stored:sub(done + 1)
            stored = table.concat(pieces)
            done, pieces, count = 0, {}, 0
        end
        local bytes = patched(stored, kind, at, patches:sub(from + 5, from + 4 + len))
        if bytes then
            pieces[count + 1], pieces[count + 2] = stored:sub(done + 1, at), bytes
            done, count = at + #bytes, count + 2
        end
        from = from + 5 + len
    end
    pieces[count + 1] = stored:sub(done + 1)
    return table.concat(pieces)
end

-- Whether a stored value is as expected: A absent, P present, V this version, B these bits, L a field of at least this.
local function holds(stored, expect)
    local kind = expect:sub(1, 1)
    if kind == 'B' and stored then
        local at, mask, want = struct.unpack('<I2I4I4', expect, 2)
        return #stored >= at + 12 and bit.band(struct.unpack('<I4', stored, at + 9), mask) == bit.tobit(want)
    end
    if kind == 'A' or not stored then return kind == 'A' and not stored end
    if kind == 'P' then return true end
    if kind == 'V' then return stored:sub(1, 8) == expect:sub(2, 9) end
    local at, want_low, want_high = struct.unpack('<I2I4I4', expect, 2)
    local low, high = halves(stored, 8 + at, 64)
    return low ~= nil and (high > want_high or (high == want_high and low >= want_low))
end

local function record_at(prefix, client)
    return prefix .. 's' .. client
end

-- The result of a sequence number in a client's record, or nothing.
local function answer(record, from, sequence)
    local at = HEAD + (sequence - (from > 1 and from - 1 or 0)) * EACH
    if at < HEAD or at + EACH > #record then return end
    local result = struct.unpack('>I7', record, at + 1)
    if result > 0 then return result - 1 end
end

-- Notes that a client was heard of, and forgets some of which nothing was heard for long.
local function heard(prefix, client)
    local all, now = prefix .. 'u', tonumber(redis.call('TIME')[1])
    redis.call('ZADD', all, now, client)
    local old = redis.call('ZRANGE', all, 0, now - CLIENT_LIFE, 'BYSCORE', 'LIMIT', 0, BATCH)
    for _, each in ipairs(old) do
        redis.call('DEL', record_at(prefix, each))
        redis.call('ZREM', all, each)
    end
end

-- The record of a client that has none yet: as version 2 of this library kept it, or a new one.
local function first_record(prefix, client)
    local at = record_at(prefix, client)
    heard(prefix, client)
    if redis.call('TYPE', at).ok ~= 'hash' then
        return struct.pack('>I3I5I5', counted(prefix, 'n', 1, LOST_CLIENTS), 0, 0)
    end
    local fields, numbers, last = redis.call('HGETALL', at), {}, 0
    for each = 1, #fields, 2 do
        local number = tonumber(fields[each])
        numbers[number or fields[each]] = tonumber(fields[each + 1])
        last = math.max(last, number or 0)
    end
    local from = numbers.from or 0
    local record = {struct.pack('>I3I5I5', numbers.id, from, numbers.lost or 0)}
    for each = math.max(from - 1, 0), last do
        record[#record + 1] = struct.pack('>I7', numbers[each] and numbers[each] + 1 or 0)
    end
    return table.concat(record)
end

-- Begins what is done once for each sequence number of a client: client, sequence, ack, "1" when the number before `ack`
-- was answered. Results of numbers below `ack` are not asked for again. Gives the result that is known already; or
-- nothing, the version that is made, and the client's record.
local function begun(prefix, argv, record)
    local sequence, ack = tonumber(argv[2]), tonumber(argv[3])
    if not record then
        record = first_record(prefix, argv[1])
    elseif sequence % BATCH == 0 then
        heard(prefix, argv[1])
    end
    local from = struct.unpack('>I5', record, 4)
    local known = answer(record, from, sequence)
    if known then return known end
    -- What was acknowledged can only come again out of a connection that was given up long ago.
    if sequence < from or sequence < ack then return redis.error_reply('DPFS stale sequence number') end
    return nil, record:sub(1, 3) .. struct.pack('>I5', sequence), record
end

-- The client's record when that is done: with its result, and without those that are not wanted any more. That of the
-- number before `ack` stays, to tell a server that was behind when it came back, or another that took its place.
local function ended(record, argv, result)
    local sequence, ack = tonumber(argv[2]), tonumber(argv[3])
    local from, lost = struct.unpack('>I5I5', record, 4)
    local first, next = from > 1 and from - 1 or 0, ack > 1 and ack - 1 or 0
    if ack > from then
        if argv[4] == '1' and ack > 1 and not answer(record, from, next) then lost = sequence end
        from = ack
    else
        next = first
    end
    local kept, at = record:sub(HEAD + (next - first) * EACH + 1), (sequence - next) * EACH
    if #kept < at then kept = kept .. ('\0'):rep(at - #kept) end
    local behind = #kept > at and kept:sub(at + EACH + 1) or ''
    if #kept > at then kept = kept:sub(1, at) end
    return record:sub(1, 3) .. struct.pack('>I5I5', from, lost) .. kept .. struct.pack('>I7', result + 1) .. behind
end

-- Does something once, with the version that it makes, and keeps its result.
local function once(prefix, argv, change)
    local at = record_at(prefix, argv[1])
    -- Of a hash MGET gives nothing, where GET would fail.
    local known, version, record = begun(prefix, argv, redis.call('MGET', at)[1])
    if known then return known end
    local result = change(version)
    redis.call('SET', at, ended(record, argv, result))
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
                store(prefix, key, version .. value)
            elseif kind == 'D' then
                remove(prefix, key)
            else
                local stored = load(prefix, key)
                if stored then store(prefix, key, patch(stored, version, value)) end
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
-- expected. With few calls of the server: they are what it costs.
redis.register_function('dpfs_write', function(keys, argv)
    local prefix, ino = keys[1], argv[5]
    local at, inode = record_at(prefix, argv[1]), inode_at(prefix, ino)
    local found = redis.call('MGET', at, inode)
    local known, version, record = begun(prefix, argv, found[1])
    if known then return known end
    local stored = found[2]
    if not stored or not holds(stored, argv[6]) then
        redis.call('SET', at, ended(record, argv, 0))
        return 0
    end
    local size, offset, bytes, done = tonumber(argv[8]), tonumber(argv[9]), argv[10], 0
    while done < #bytes do
        local inside = (offset + done) % size
        local index = (offset + done - inside) / size
        local count = math.min(size - inside, #bytes - done)
        -- A string of Lua is a copy, so the usual one piece is not cut.
        local piece = count == #bytes and bytes or bytes:sub(done + 1, done + count)
        local len = redis.call('SETRANGE', chunk_at(prefix, ino, index), inside, piece)
        -- One that is longer was there before.
        if index > 0 and len == inside + count then redis.call('ZADD', chunks_at(prefix, ino), index, index) end
        done = done + count
    end
    redis.call('MSET', at, ended(record, argv, 1), inode, patch(stored, version, argv[7]))
    return 1
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
        redis.call('SET', inode_at(prefix, ino), patch(stored, version, argv[10]))
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
    local record = redis.call('MGET', record_at(keys[1], argv[1]))[1]
    if not record then return sequence <= seen and 1 or 0 end
    local _, from, lost = struct.unpack('>I3I5I5', record)
    if lost > seen then return 0 end
    return (from > sequence or answer(record, from, sequence) or sequence <= seen) and 1 or 0
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
-- number, name or, of inodes, the place to go on behind and the number; its stored value, of names 8 zeros; and, when
-- following, that of the inode which the value names. Positions and orphans begin at a number, names behind so many, inodes at a cursor of the server.
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
            if not give(names[each], NO_VERSION) then break end
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
