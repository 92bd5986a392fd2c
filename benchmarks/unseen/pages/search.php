<?php
require 'common.php';
$body = '';
foreach (rows('SELECT thread, author, text FROM posts WHERE text LIKE ? LIMIT 400', ['%' . ($_GET['q'] ?? '') . '%']) as $n => $row) {
    if ($n < 20) {
        $body .= "<li>#{$row['thread']} " . htmlspecialchars($row['author']) . ': ' . marked(substr($row['text'], 0, 200)) . '</li>';
    }
}
page('Search', "<ol>$body</ol>");
