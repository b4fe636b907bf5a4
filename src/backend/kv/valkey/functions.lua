#!lua name=dpfs
-- The server's side of the `valkey` engine: what changes or reads several records of a volume, in one step.
--
-- KEYS[1] is the volume's prefix, "{volume}", which also names the hash slot. Records are named in ARGV as
-- Key::encode writes them: inode number (8 bytes, big-endian), kind, name or number. They are kept as
--
--   PREFIX .. kind .. inode   a string, for the kinds of which an inode has one
--   PREFIX .. kind .. inode   a hash by name (3 names, 2 extended attributes)
--   PREFIX .. kind .. inode   a sorted set in the order of bytes: number, version, value (4 positions, 6 orphans)
--   PREFIX .. "r"             a counter: the numbers given out
--   PREFIX .. "n"             a counter: the last version given out
--   PREFIX .. "s" .. client   a hash: sequence number -> result, kept until the client says that it has it
--
-- The stored value of a record is its version (8 bytes) and its value. Numbers in Lua are exact below 2^53 only, so
-- fields of 64 bits are taken in halves.

local XATTR, NAME, POSITION, ORPHAN = 2, 3, 4, 6
-- First number that is given out; files have those from here on.
local FIRST_NUMBER = 1024
-- Seconds after which a client that was not heard of is forgotten.
local CLIENT_LIFE = 86400
local HALF = 4294967296

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

local function store(prefix, key, value)
    local version = struct.pack('>I8', redis.call('INCR', prefix .. 'n'))
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

-- Whether a stored value is as expected: A absent, P present, V this version, B these bits.
local function holds(stored, expect)
    local kind = expect:sub(1, 1)
    if kind == 'A' or not stored then return kind == 'A' and not stored end
    if kind == 'P' then return true end
    if kind == 'V' then return stored:sub(1, 8) == expect:sub(2, 9) end
    local at, mask, want = struct.unpack('<I2I4I4', expect, 2)
    local field = halves(stored, 8 + at, 32)
    return field ~= nil and bit.band(field, mask) == bit.tobit(want)
end

-- Does something once for each sequence number of a client. Results of numbers below `ack` are not asked for again.
local function once(prefix, client, sequence, ack, change)
    local results = prefix .. 's' .. client
    local result = redis.call('HGET', results, sequence)
    if result then return tonumber(result) end
    local from = tonumber(redis.call('HGET', results, 'from') or ack)
    ack = tonumber(ack)
    -- What was acknowledged can only come again out of a connection that was given up long ago.
    if tonumber(sequence) < math.max(from, ack) then return redis.error_reply('DPFS stale sequence number') end
    result = change()
    while from < ack do
        redis.call('HDEL', results, from)
        from = from + 1
    end
    redis.call('HSET', results, 'from', from, sequence, result)
    redis.call('EXPIRE', results, CLIENT_LIFE)
    return result
end

-- client, sequence, ack, number of checks, {key, expectation}, {key, P put | D delete | U patch, value}: 1, or 0 when
-- a check does not hold.
redis.register_function('dpfs_transact', function(keys, argv)
    local prefix = keys[1]
    return once(prefix, argv[1], argv[2], argv[3], function()
        local at = 5
        for _ = 1, tonumber(argv[4]) do
            if not holds(load(prefix, argv[at]), argv[at + 1]) then return 0 end
            at = at + 2
        end
        while at < #argv do
            local key, kind, value = argv[at], argv[at + 1], argv[at + 2]
            if kind == 'P' then
                store(prefix, key, value)
            elseif kind == 'D' then
                remove(prefix, key)
            else
                local stored = load(prefix, key)
                if stored then store(prefix, key, patch(stored:sub(9), value)) end
            end
            at = at + 3
        end
        return 1
    end)
end)

-- client, sequence, ack, count: the first of so many numbers that nobody else gets.
redis.register_function('dpfs_reserve', function(keys, argv)
    local prefix = keys[1]
    return once(prefix, argv[1], argv[2], argv[3], function()
        local count = tonumber(argv[4])
        return FIRST_NUMBER + redis.call('INCRBY', prefix .. 'r', count) - count
    end)
end)

-- "1" to follow names or "0", {key}: for each key its stored value or nothing, and, when following, that of the inode
-- which the first 8 bytes of a name's value name.
redis.register_function{function_name = 'dpfs_get', flags = {'no-writes'}, callback = function(keys, argv)
    local prefix, follow, found = keys[1], argv[1] == '1', {}
    for at = 2, #argv do
        local stored = load(prefix, argv[at])
        found[#found + 1] = stored or false
        if follow then
            local inode = stored and argv[at]:byte(9) == NAME and stored:sub(9, 16):reverse()
            found[#found + 1] = inode and load(prefix, inode .. '\0') or false
        end
    end
    return found
end}
