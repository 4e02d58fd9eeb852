/*
 * Tricks on the lane, the memory that the worker shares with the gateway (a part of hostile.c). The lane's layout:
 * src/link/lane/layout.rs.
 */
#define APART 16
#define CONTROLS 7
#define REQUESTS 16
#define REQUEST_WORDS 4096
#define RESPONSE_WORDS 8192
#define PACKET_HEAD 2
#define LANE_WORDS (CONTROLS * APART + REQUESTS + REQUEST_WORDS + RESPONSE_WORDS)

/* All accesses are atomic, as the gateway's are. */
typedef uint64_t word;

static word *lane;
static word written;         /* words of packets, as this worker counts them */
static uint32_t sent_before; /* packets that this module has sent over the socket */

static word load(const word *from) { return __atomic_load_n(from, __ATOMIC_SEQ_CST); }
static void store(word *to, word value) { __atomic_store_n(to, value, __ATOMIC_SEQ_CST); }
static word *control(int number) { return lane + number * APART; }
static word *claims(void) { return control(0); }
static word *end_of_packets(void) { return control(4); }
static word *responses(void) { return lane + CONTROLS * APART + REQUESTS + REQUEST_WORDS; }

/* Finds the lane's only mapping in this process. */
static void find_lane(void)
{
    char text[512];
    FILE *maps = fopen("/proc/self/maps", "r");
    unsigned long start;
    while (maps && fgets(text, sizeof text, maps))
        if (strstr(text, "nibiru-lane") && sscanf(text, "%lx", &start) == 1)
            lane = (word *)start;
    if (!lane)
        abort();
    fclose(maps);
    written = load(end_of_packets());
}

/* Claimed and pushed requests, changed by so many. */
static void change_claims(int32_t claimed, int32_t pushed)
{
    word now = load(claims());
    uint32_t upper = (uint32_t)(now >> 32) + (uint32_t)claimed, lower = (uint32_t)now + (uint32_t)pushed;
    store(claims(), (word)upper << 32 | lower);
}

static void put_head(uint32_t before, uint32_t bytes_follow)
{
    store(responses() + written % RESPONSE_WORDS, (word)before << 32 | bytes_follow);
}

static size_t words_of_packet(void) { return PACKET_HEAD + (length + 7) / 8; }

/* Writes the packet where the next one belongs. */
static void put_packet(uint32_t before)
{
    put_head(before, (uint32_t)length);
    for (size_t i = 0; i * 8 < length; i++) {
        word value = 0;
        memcpy(&value, packet + i * 8, length - i * 8 < 8 ? length - i * 8 : 8);
        store(responses() + (written + PACKET_HEAD + i) % RESPONSE_WORDS, value);
    }
}

/* Sends the packet through the lane, as an intact worker does; where it has no room, waits for that. */
static void post_to_lane(int link)
{
    unsigned char waiting;
    while (written + words_of_packet() - load(control(5)) > RESPONSE_WORDS)
        if (recv(link, &waiting, 1, MSG_PEEK | MSG_DONTWAIT) == 0)
            _exit(0);
    put_packet(sent_before);
    written += words_of_packet();
    store(end_of_packets(), written);
    if (__atomic_exchange_n(control(6), 0, __ATOMIC_SEQ_CST))
        send(link, "", 1, MSG_NOSIGNAL);
    length = 0;
}

static word random_word(void)
{
    static _Thread_local word state = 0x9e3779b97f4a7c15;
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state;
}

static size_t scribbled_from, scribbled_words;

/* Writes random words over a part of the lane for as long as this process lives. */
static void *scribble(void *unused)
{
    for (;;)
        store(lane + scribbled_from + random_word() % scribbled_words, random_word());
    return unused;
}

/* Says and unsays that the running request is claimed. */
static void *claim_and_not(void *unused)
{
    for (;;)
        change_claims(-1, 0), change_claims(1, 0);
    return unused;
}

/* Says without an end that there is another empty packet. */
static void *empty_packets(void *unused)
{
    memset(responses(), 0, RESPONSE_WORDS * sizeof(word));
    for (;;)
        store(end_of_packets(), load(control(5)) + RESPONSE_WORDS);
    return unused;
}

/* Whether the packets of flood_lane are parts of a body. Otherwise they are log lines. */
static int floods_bodies;

/* Sends packets through the lane until the gateway has closed the link. */
static void *flood_lane(void *link)
{
    unsigned char waiting;
    do {
        for (int i = 0; i < 8 && !floods_bodies; i++)
            line(0, "debug"); /* which is not written by default */
        if (floods_bodies) {
            answering(serial);
            byte(BODY), number(16000);
            length += 16000;
        }
        post_to_lane(*(int *)link);
    } while (recv(*(int *)link, &waiting, 1, MSG_PEEK | MSG_DONTWAIT) != 0);
    _exit(0);
}

static void begin_body(int link)
{
    answering(serial);
    text(HEAD, "Status: 200 OK\r\n\r\n");
    post_to_lane(link);
    floods_bodies = 1;
}

static void start_thread(void *(*run)(void *), void *argument)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, run, argument) != 0)
        abort();
}

/* A part of the lane by its name: the words from, and their number. */
static void scribbled_part(const char *name)
{
    scribbled_words = 1;
    if (is(name, "all"))
        scribbled_from = 0, scribbled_words = LANE_WORDS;
    else if (is(name, "claims"))
        scribbled_from = 0;
    else if (is(name, "controls"))
        scribbled_from = 0, scribbled_words = CONTROLS * APART;
    else if (is(name, "written"))
        scribbled_from = 4 * APART;
    else if (is(name, "requests"))
        scribbled_from = CONTROLS * APART, scribbled_words = REQUESTS + REQUEST_WORDS;
    else if (is(name, "responses"))
        scribbled_from = CONTROLS * APART + REQUESTS + REQUEST_WORDS, scribbled_words = RESPONSE_WORDS;
    else
        abort();
}

/* A response, which the gateway finds wrong by what was changed before. */
static void forge(void)
{
    complete_response("forged\n");
    put_packet(sent_before);
    store(end_of_packets(), written + words_of_packet());
}

static void act_on_lane(int link, const char *name)
{
    find_lane();
    if (is(name, "honest")) { /* shows that the tricks find everything at its place */
        complete_response("honest\n");
        post_to_lane(link);
    } else if (is(name, "noise")) {
        for (size_t i = 0; i < LANE_WORDS; i++)
            store(lane + i, random_word());
    } else if (is(name, "more_claims")) {
        change_claims(1, 0), forge();
    } else if (is(name, "pushed")) {
        change_claims(0, 1), forge();
    } else if (is(name, "taken_back")) {
        change_claims(0, -1), forge();
    } else if (is(name, "fewer_claims")) {
        change_claims(-2, 0), forge();
    } else if (is(name, "unclaimed")) {
        change_claims(-1, 0), forge();
    } else if (is(name, "early")) {
        serial++, forge();
    } else if (is(name, "written_back")) {
        store(end_of_packets(), written - 1);
    } else if (is(name, "written_far")) {
        store(end_of_packets(), written + RESPONSE_WORDS + 1);
    } else if (is(name, "long")) {
        put_head(sent_before, 16 * 1024 + 1);
        store(end_of_packets(), written + RESPONSE_WORDS);
    } else if (is(name, "beyond")) {
        put_head(sent_before, 100);
        store(end_of_packets(), written + PACKET_HEAD + 2);
    } else if (is(name, "empty")) {
        put_head(sent_before, 0);
        store(end_of_packets(), written + PACKET_HEAD);
    } else if (is(name, "order_back")) {
        sent_before--, forge();
    } else if (is(name, "order_ahead")) {
        sent_before++, forge();
    } else if (is(name, "malformed")) {
        byte(77);
        post_to_lane(link);
    } else if (is(name, "end_twice")) {
        complete_response("honest\n");
        end();
        post_to_lane(link);
    } else if (is(name, "claim_and_not")) {
        start_thread(claim_and_not, NULL);
    } else if (strncmp(name, "scribble_", 9) == 0) {
        scribbled_part(name + 9);
        start_thread(scribble, NULL);
    } else if (is(name, "lines")) {
        flood_lane(&link);
    } else if (is(name, "bodies")) {
        begin_body(link);
        flood_lane(&link);
    } else if (is(name, "empties")) {
        start_thread(empty_packets, NULL);
    } else if (is(name, "before_a_packet")) { /* bodies that never end, before a packet of the socket */
        static int kept;
        kept = link;
        begin_body(link);
        start_thread(flood_lane, &kept);
        while (load(control(5)) < 2 * RESPONSE_WORDS)
            ;
        unsigned char debug_line[10] = { LOG };
        if (send(link, debug_line, sizeof debug_line, MSG_NOSIGNAL) < 0)
            abort();
    } else if (is(name, "heir")) { /* a child that goes on after the worker's death */
        if (madvise(lane, LANE_WORDS * sizeof(word), MADV_DOFORK) < 0)
            abort();
        if (fork() == 0)
            flood_lane(&link);
        _exit(0);
    } else {
        abort();
    }
    /* The gateway has to kill this process. It looks at the lane when it is woken. */
    for (;;) {
        if (send(link, "", 1, MSG_NOSIGNAL) < 0)
            abort();
        poll(NULL, 0, 5);
    }
}
